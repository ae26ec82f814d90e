"""Hand one job of the flow to Kubernetes and print its name:
submit.py THREADS MEMORY_MB MINUTES GPUS JOBSCRIPT (config.yaml beside this file says the rest)."""

import json
import os
import subprocess
import sys
import uuid

WHERE = ("FEATINT_IMAGE", "FEATINT_CLAIM", "FEATINT_MOUNT")
HANDED_ON = ("FEATINT_CACHE", "HOME", "PYTHONUTF8")


def manifest(threads: int, memory_mb: int, minutes: int, gpus: int, script: str) -> dict:
    """The Job that runs a jobscript on the shared volume, with scratch of its own at /tmp."""
    image, claim, mount = (os.environ[name] for name in WHERE)
    asked = {"cpu": str(threads), "memory": f"{memory_mb}M"}
    asked |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
    container = {
        "name": "job",
        "image": image,
        "command": ["sh", script],
        "workingDir": os.getcwd(),
        "env": [{"name": n, "value": os.environ[n]} for n in HANDED_ON if n in os.environ],
        "resources": {"requests": asked, "limits": asked},
        "volumeMounts": [
            {"name": "shared", "mountPath": mount},
            {"name": "scratch", "mountPath": "/tmp"},
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": 60 * minutes,
        "containers": [container],
        "volumes": [
            {"name": "shared", "persistentVolumeClaim": {"claimName": claim}},
            {"name": "scratch", "emptyDir": {}},
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"featint-{uuid.uuid4()}", "labels": {"app": "featint"}},
        "spec": {"backoffLimit": 0, "ttlSecondsAfterFinished": 86_400, "template": {"spec": pod}},
    }


if __name__ == "__main__":
    if lacks := [name for name in WHERE if not os.environ.get(name)]:
        sys.exit(f"{', '.join(lacks)} not set; profiles/kubernetes/config.yaml says what they are")
    if not os.path.abspath(sys.argv[-1]).startswith(os.path.join(os.environ["FEATINT_MOUNT"], "")):
        sys.exit(f"{sys.argv[-1]} is not on the shared volume, {os.environ['FEATINT_MOUNT']}")
    job = manifest(*map(int, sys.argv[1:5]), os.path.abspath(sys.argv[5]))
    kubectl = ["kubectl", "create", "--filename=-"]
    subprocess.run(kubectl, input=json.dumps(job), text=True, check=True, stdout=sys.stderr)
    print(job["metadata"]["name"])
