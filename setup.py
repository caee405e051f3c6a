"""Packaging of keras-meta."""

import pathlib

import setuptools

setuptools.setup(
    name="keras-meta",
    version="0.1.0",
    description="Few-shot meta-learning for TensorFlow and Keras, with a model zoo.",
    long_description=pathlib.Path(__file__)
    .with_name("README.md")
    .read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["keras_meta*", "zoo*"]),
    package_data={"zoo": ["models/*/*.keras", "models/*/*.json", "*.csv", "*.md"]},
    install_requires=[
        "absl-py>=2.1",
        "importlib_resources>=6.0",  # tensorflow-datasets needs it, undeclared
        "keras>=3.15",
        "matplotlib>=3.9",
        "numpy>=1.26",
        "pillow>=10.0",
        "rich>=13.0",
        "tensorboard>=2.20",
        "tensorflow>=2.20",
        "tensorflow-datasets>=4.9.10",
        "tensorflow-probability[tf]>=0.24",
        "tensorflow-serving-api>=2.20",
    ],
    extras_require={
        "bench": ["jax>=0.5", "torch>=2.6"],  # peers of tools/benchmark.py
        "docs": [
            "furo>=2024.8",
            "ipykernel>=6.29",
            "jupytext>=1.16",
            "myst-nb>=1.2",
            "sphinx>=8.1",
        ],
        "notebooks": ["ipykernel>=6.29", "jupytext>=1.16", "nbclient>=0.10"],
        "test": [
            "hypothesis>=6.100",
            "jupytext>=1.16",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
            "setuptools>=70.1",
            "uv>=0.5",  # tools/check_versions.py
        ],
    },
    entry_points={"console_scripts": ["keras-meta = zoo.cli:main"]},
)
