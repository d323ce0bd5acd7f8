"""How the bundled detectors were trained. Not shipped."""
