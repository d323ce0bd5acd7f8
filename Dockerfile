# The command as an image, for CI systems that run containers.
#
#   docker build -t onnxslim-yolo .                              # compiles .onnx and Darknet files
#   docker build -t onnxslim-yolo --build-arg EXTRAS=torch .     # and checkpoints
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" onnxslim-yolo compile model.onnx --prune 0.5
#
# docs/pages/ci.md has the whole of it; tests/test_dockerfile.py runs these lines without a container.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY onnxslim_yolo ./onnxslim_yolo
COPY passes ./passes
COPY models ./models
RUN python -m pip install --quiet --no-cache-dir "setuptools>=77"
RUN python -m pip wheel --quiet --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG EXTRAS=""
COPY --from=build /wheels /wheels
RUN python -m pip install --quiet --no-cache-dir "$(echo /wheels/*.whl)${EXTRAS:+[$EXTRAS]}"
RUN onnxslim-yolo --version
# Any user id may run it (docker run --user): nothing is written but below the working directory.
ENV HOME=/tmp
USER nobody
WORKDIR /work
ENTRYPOINT ["onnxslim-yolo"]
CMD ["--help"]
