"""Being a conftest inside the package `tests`, this file makes `from tests.zoo import …` work in every test."""
