"""Containers that a worker may run."""

import pytest

from jobworker.declare import Abort
from jobworker.domain.jobs.isolation import ContainerIsolation
from jobworker.settings import Settings
from jobworker.worker.builtin import container


def check_policy(image: str, network: str = "none", **settings: str) -> None:
    environment = {f"JOBWORKER_CONTAINER_{name.upper()}": value for name, value in settings.items()}
    container.check_policy(ContainerIsolation(image, network=network), Settings.from_environment(environment))


def test_containers_disabled_until_images_listed() -> None:
    with pytest.raises(Abort, match="containers are off on this worker; JOBWORKER_CONTAINER_IMAGES lists"):
        check_policy("busybox")


def test_unlisted_images_and_networks_rejected() -> None:
    listed = "busybox registry.example/jobs/*"
    for image in ("busybox", "registry.example/jobs/resize:1.4"):
        check_policy(image, images=listed)
    for image in ("busybox:1", "evil/busybox", "registry.example/jobs", "REGISTRY.example/jobs/a"):
        with pytest.raises(Abort, match=f"{image} is not one of the images that JOBWORKER_CONTAINER_IMAGES allows"):
            check_policy(image, images=listed)
    check_policy("busybox", network="inner", images=listed, networks="inner outer")
    for network in ("host", "bridge"):
        with pytest.raises(
            Abort, match=f"{network} is not one of the networks that JOBWORKER_CONTAINER_NETWORKS allows"
        ):
            check_policy("busybox", network=network, images=listed, networks="inner")
