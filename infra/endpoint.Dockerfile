# The endpoint alone: none of the platform, no compiler, no package manager's caches. From the
# repository's root:
#
#   docker build -f infra/endpoint.Dockerfile -t evergreen-endpoint .
#
# It runs as the user 10001, writes nothing but --state and /tmp, and is what the chart in
# infra/helm/evergreen-endpoint rolls out. The first stage has gcc, which builds the walker of trees.
FROM python:3.11-bookworm AS installed
COPY infra/endpoint.lock /tmp/endpoint.lock
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes --no-deps -r /tmp/endpoint.lock
WORKDIR /opt/evergreen
COPY pyproject.toml README.md ./
COPY bundle bundle
RUN rm -f bundle/models/trees/_walker.*.so \
    && /opt/venv/bin/python -c 'import setuptools; setuptools.setup()' --quiet \
       build_ext --inplace --build-temp /tmp/build --build-lib /tmp/build \
    && /opt/venv/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin evergreen
COPY --from=installed /opt/venv /opt/venv
COPY --from=installed /opt/evergreen/bundle /opt/evergreen/bundle
COPY serving /opt/evergreen/serving
RUN PYTHONPATH=/opt/evergreen /opt/venv/bin/python -m compileall -q /opt/evergreen /opt/venv/lib
ENV PYTHONPATH=/opt/evergreen PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /opt/evergreen
USER 10001:10001
EXPOSE 8443 8444
ENTRYPOINT ["/opt/venv/bin/python", "-m", "serving"]
