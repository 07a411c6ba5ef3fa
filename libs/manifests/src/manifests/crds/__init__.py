"""The CustomResourceDefinitions, made from the models. `python -m manifests.crds FOLDER` writes them."""

from manifests.crds.definitions import definitions, manifest

__all__ = ["definitions", "manifest"]
