# A template for E2B: e2b template build --dockerfile e2b.Dockerfile, or Template().from_dockerfile("e2b.Dockerfile").
#
# E2B takes one stage, no more than FROM, RUN, COPY, ADD, WORKDIR, USER, ENV, ARG, CMD and ENTRYPOINT, and makes a start
# command out of the last two, which would freeze a server that already runs into the template: so there is none. Needs the
# program at bin/turnhost: make dist && mkdir -p bin && tar -xzf dist/turnhost-*.tar.gz -C bin turnhost
FROM debian:bookworm-slim
USER root
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl git nodejs python3 && rm -rf /var/lib/apt/lists/*
COPY setup.sh /bundle/setup.sh
COPY bin /bundle/bin
COPY handlers /bundle/handlers
COPY prompts /workspace/prompts
RUN bash /bundle/setup.sh
WORKDIR /workspace
