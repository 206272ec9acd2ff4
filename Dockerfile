# Written by infra/generate.py: change a limit in infra/limits.toml, the rest in
# infra/templates/Dockerfile, then `make infra`.
# The image of the wheel, for web process and worker: make wheel && docker build -t macule .
FROM python:3.13.5-slim AS build
WORKDIR /src
COPY requirements/serve.txt requirements/queue.txt ./
RUN python -m venv /opt/macule \
 && /opt/macule/bin/pip install --no-cache-dir --no-deps --require-hashes -r serve.txt -r queue.txt
COPY dist/macule-*.whl ./
RUN /opt/macule/bin/pip install --no-cache-dir --no-deps ./macule-*.whl

FROM python:3.13.5-slim
COPY --from=build /opt/macule /opt/macule
ENV PATH=/opt/macule/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PORT=8080
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["python", "-c", \
  "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health/', timeout=4)"]
CMD ["macule", "serve"]
