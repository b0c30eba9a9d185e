# The image the models run in: Dataloop's runner with this app's dependencies. The code comes with the app.
FROM hub.dataloop.ai/dtlpy-runner-images/cpu:python3.12_opencv

USER 1000
# HF_HOME is where weights are kept; a GPU pod gives its GPU to containers that ask for it. Threads that wait for
# each other spin this long: by default so long that on shared cores they keep each other from working.
ENV HOME=/tmp \
    HF_HOME=/tmp/huggingface \
    GOMP_SPINCOUNT=5000 \
    PATH=/tmp/.local/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

COPY --chown=1000 requirements.txt /tmp/requirements.txt
RUN python3 -m pip install --user --no-cache-dir -r /tmp/requirements.txt
