"""Configurations of the real Milvus 2.3.5: its own template, with free ports and short waits."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

# Sections of the configuration that have a port, and the template's default of none of them is
# used: other test runs on the machine have servers too.
SECTIONS = ("rootCoord", "dataCoord", "queryCoord", "dataNode", "indexNode", "queryNode", "proxy")


def base_config(binaries: Path, ports: Mapping[str, int]) -> dict[str, Any]:
    """The template without its holes. `ports`: one for each section, and `internal` of the proxy."""
    template = (binaries / "config.yaml.template").read_text()
    template = re.sub(r"\{\{[^}]*?:\s*([^}]*?)\s*\}\}", r"\1", template)
    config: dict[str, Any] = yaml.safe_load(re.sub(r"\{\{[^}]*\}\}", "", template))
    for section in SECTIONS:
        config[section]["ip"] = "127.0.0.1"
        config[section]["port"] = ports[section]
    config["proxy"]["internalPort"] = ports["internal"]
    config["proxy"]["http"] = {"enabled": False}
    # Without this SIGTERM takes half an hour.
    config["common"]["gracefulStopTimeout"] = 5
    config["log"]["level"] = "warn"
    config["log"]["file"]["rootPath"] = ""
    # Loading a collection waits for these.
    config["queryCoord"].update(checkInterval=100, distPullInterval=100, checkIndexInterval=200)
    # Strong reads wait for it.
    config["proxy"]["timeTickInterval"] = 50
    # How full this machine is is not what is tested.
    config["quotaAndLimits"]["limitWriting"]["memProtection"]["enabled"] = False
    return config


def write_config(binaries: Path, folder: Path, config: Mapping[str, Any]) -> None:
    """`folder` becomes a MILVUSCONF."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "milvus.yaml").write_text(yaml.safe_dump(dict(config)))
    shutil.copy(binaries / "glog.conf", folder)
