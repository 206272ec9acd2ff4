# Written by infra/generate.py: change a limit in infra/limits.toml, the rest in
# infra/templates/knative/Dockerfile, then `make infra`.
# The image of a bundle: docker build -t IMAGE build/knative/predict
FROM --platform=linux/amd64 python:3.13.5-slim
ENV FUNCTION_TARGET=predict PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /srv
COPY . .
USER 10001
CMD ["python", "-m", "infra.serve", "--worker-tmp-dir", "/dev/shm"]
