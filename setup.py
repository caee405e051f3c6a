"""Packaging of keras-meta."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
PACKAGE = (ROOT / "keras_meta" / "__init__.py").read_text(encoding="utf-8")

setuptools.setup(
    name="keras-meta",
    version=re.search(r'__version__ = "(.+)"', PACKAGE)[1],
    description="Few-shot meta-learning for TensorFlow and Keras, with a model zoo.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    # The folder zoo/ is installed as keras_meta.zoo.
    packages=[
        *setuptools.find_packages(include=["keras_meta*"]),
        "keras_meta.zoo",
        *(f"keras_meta.zoo.{name}" for name in setuptools.find_packages("zoo")),
    ],
    package_dir={"keras_meta.zoo": "zoo"},
    package_data={
        "keras_meta": ["py.typed"],
        "keras_meta.zoo": ["models/*/*.keras", "models/*/*.json", "*.csv", "*.md"],
    },
    install_requires=[
        "absl-py>=2.1",
        "h5py>=3.11",  # what Keras saves weights with
        "importlib_resources>=6.0",  # tensorflow-datasets needs it, undeclared
        "keras>=3.15",
        "matplotlib>=3.9",
        "numpy>=1.26",
        "pillow>=10.1",
        "rich>=13.0",
        "shtab>=1.10",
        "tensorboard>=2.20",
        "tensorflow>=2.20",
        "tensorflow-datasets>=4.9.10",
        "tensorflow-probability[tf]>=0.24",
        "tensorflow-serving-api>=2.20",
        "wrapt>=1.16",
    ],
    extras_require={
        "app": ["gradio>=6.0"],  # keras-meta app
        "bench": [
            "jax>=0.5",  # a peer of tools/benchmark.py
            "scikit-image>=0.24",  # tools/experiments/baselines.py
            "scikit-learn>=1.5",
            "torch>=2.6",  # a peer of tools/benchmark.py
        ],
        "docs": [
            "furo>=2024.8",
            "ipykernel>=6.29",
            "jupytext>=1.16",
            "myst-nb>=1.2",
            "scikit-image>=0.24",  # photographs of docs/tutorials/photographs.md
            "sphinx>=8.1",
            "sphinx-design>=0.6",
            "sphinx-mathjax-offline>=0.0.2",
        ],
        "notebooks": ["ipykernel>=6.29", "jupytext>=1.16", "nbclient>=0.10"],
        "photos": ["pillow>=11.3", "pillow-heif>=1.0"],  # AVIF and HEIC
        "test": [
            "hypothesis>=6.100",
            "jupytext>=1.16",
            "mypy>=1.15",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
            "scikit-image>=0.24",  # tools/experiments/baselines.py
            "scikit-learn>=1.5",
            "selenium>=4.20",  # tests/test_app_browser.py
            "setuptools>=70.1",
            "uv>=0.5",  # tools/check_versions.py
        ],
    },
    entry_points={"console_scripts": ["keras-meta = keras_meta.__main__:main"]},
)
