# %% [markdown]
# # Your own images, from a folder to a served model
#
# The input is a folder with a sub-folder of images for each class:
#
# ```
# pictures/
#   acorn/    1.png 2.png ...
#   beetle/   1.png 2.png ...
#   ...
# ```
#
# This tutorial loads a pretrained model, meta-trains it on some of the classes,
# evaluates it on unseen classes, learns a new task from one picture of each class,
# fine-tunes the model with Keras `fit`, exports it, and queries the export.
#
# The tutorial runs without data of yours: if the folder does not exist, it draws forty
# characters of an invented alphabet on stained paper and saves them in it. To use your
# own pictures, set `PICTURES` to their folder. At least five classes are needed, with
# at least six images each: one support example and five queries. With twenty classes or
# more, tasks of unseen classes have five classes; with fewer, they are smaller. All
# files are written to `own_images/`.

# %%
import argparse
import pathlib
import shutil
import subprocess

import keras
import numpy as np
import PIL.Image
import tensorflow as tf

import keras_meta as km
from keras_meta import plots, zoo

if "__file__" in globals():  # a script, not a notebook
    argparse.ArgumentParser(
        description="Trains, evaluates, fine-tunes and exports a model on the images "
        "in own_images/pictures/, which it draws if the folder does not exist."
    ).parse_args()
km.runtime.configure()  # threads for many small tasks; call it before other functions

OUT = pathlib.Path("own_images")
PICTURES = OUT / "pictures"
STEPS = 100  # of meta-training; use a thousand or more for pictures unlike drawings
LEAST = 5  # classes
EPOCHS = 20  # of fine-tuning

# %%
if not PICTURES.exists():
    drawn = km.tasks.glyphs(range(5000, 5040))
    random = np.random.RandomState(0)
    for name in drawn.class_ids:
        (PICTURES / f"character{name}").mkdir(parents=True)
        for number, image in enumerate(drawn.images_of(name)):
            # Large dark stains on grainy paper.
            stains = random.uniform(0.35, 1, [4, 4, 1])
            stains = tf.image.resize(stains, image.shape[:2], "bicubic")
            stained = 255 * image * stains + random.normal(0, 15, image.shape)
            file = PICTURES / f"character{name}" / f"{number}.png"
            keras.utils.save_img(file, np.clip(stained, 0, 255), scale=False)

folders = sorted(folder for folder in PICTURES.iterdir() if folder.is_dir())
if len(folders) < LEAST:
    raise SystemExit(f"expected {LEAST} classes in {PICTURES}, got {len(folders)}")

# %% [markdown]
# ## Episodes
#
# `zoo.load` returns a compiled Keras model. Its `preprocess` converts images to network
# inputs: resized, grey, with light ink on a dark ground. `keras-meta list` lists all
# pretrained models. The pool stores the resized images in memory. The test classes are
# split off before training.

# %%
learner = zoo.load("maml.glyphs_5w1s-inductive")
pool = km.ClassPool.from_directory(PICTURES, learner.preprocess)
classes = len(pool.class_ids)
tested = max(classes // 4, 2)
train, test = pool.split_classes(classes - tested, tested, seed=0)
print(f"{classes} classes: {len(train.class_ids)} to train, {tested} to test")

# Episode i is a pure function of (seed, i): both rows below use the same tasks.
ways = min(tested, 5)  # the model has five outputs; tasks may have fewer classes
unseen = test.episodes(ways, shots=1, queries=5, seed=1).batch(16)

# %% [markdown]
# ## Meta-training is `fit`
#
# A meta-step adapts to sixteen tasks, computes the loss on queries of the same classes,
# and updates the initial weights. `evaluate` reports the accuracy on unseen classes
# with its 95% interval. The model was pretrained on clean drawings, and stains lower
# its accuracy. Meta-training on other classes teaches it to ignore them. Quarter turns
# of the training classes are additional classes. (To begin with random weights, replace
# the pretrained model with `km.MAML(km.networks.conv4((28, 28, 1), outputs=5),
# preprocess=learner.preprocess)`.)

# %%
learner.compile(keras.optimizers.Adam(1e-3))
before = learner.evaluate(unseen, steps=10, return_dict=True, verbose=0)
episodes = train.with_rotations().episodes(ways=5, shots=1, queries=5, seed=0)
learner.fit(episodes.batch(16).prefetch(2), steps_per_epoch=STEPS, verbose=0)
after = learner.evaluate(unseen, steps=10, return_dict=True, verbose=0)
for time, scores in (("before", before), ("after", after)):
    accuracy, interval = scores["accuracy"], scores["accuracy_95"]
    print(f"{time}: {accuracy:.1%} ± {interval:.1%} on unseen classes, 160 tasks")

# %% [markdown]
# ## Learn a task from one picture of each class
#
# `adapt` learns from the support set, and `infer` predicts the queries. All arrays have
# a leading axis of tasks, T = 1 here.

# %%
episode, query_y = next(iter(test.episodes(ways, 1, 5, seed=2).batch(1)))
support_x, support_y = episode["support_x"], episode["support_y"]
query_x = episode["query_x"]

state = learner.adapt(support_x, support_y)
probabilities = tf.nn.softmax(learner.infer(state, query_x))[0, :, :ways].numpy()
right = np.mean(probabilities.argmax(-1) == query_y[0])
print(f"learned from {ways} pictures: {right:.0%} of {len(query_y[0])} are right")

# The preprocessing inverted the ink; the picture shows it dark again.
paper = 1 - support_x[0].numpy(), 1 - query_x[0].numpy()
figure = plots.predictions(
    paper[0], support_y[0], paper[1], probabilities, query_y=query_y[0]
)
figure.savefig(OUT / "predictions.png")
PIL.Image.open(OUT / "predictions.png")

# %% [markdown]
# ## Fine-tune it as a Keras model
#
# `finetune` returns an ordinary, compiled `keras.Model` whose initial weights are the
# result of `adapt`. Callbacks, `validation_data`, `save` and `load_model` work as for
# any Keras model.

# %%
model = km.finetune(learner, support_x[0], support_y[0])
history = model.fit(
    support_x[0],
    support_y[0],
    epochs=EPOCHS,
    validation_data=(query_x[0], query_y[0]),
    verbose=0,
)
print(f"fine-tuned: {history.history['val_accuracy'][-1]:.0%} right")
model.save(OUT / "task.keras")

# %% [markdown]
# ## Export it, and query the export
#
# The export is a SavedModel for TensorFlow Serving that adapts inside the request. It
# runs without keras-meta. `keras-meta request` sends the pictures of two folders to a
# server; with `--local` it sends the same request through TensorFlow Serving's loader
# and session, without a server.

# %%
path = km.export(learner, OUT / "served/pictures")
print(f"exported to {path}")

support, queries = OUT / "support", OUT / "queries"
for folder in (support, queries):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
for folder in folders[:5]:
    files = sorted(folder.iterdir())
    (support / folder.name).mkdir()
    shutil.copy(files[0], support / folder.name)
    shutil.copy(files[1], queries / f"{folder.name}{files[1].suffix}")

command = ["keras-meta", "request", "pictures", "--local", OUT / "served"]
command += ["--support", support, "--query", queries]
request = subprocess.run(command, capture_output=True, text=True)
print(request.stdout or request.stderr)

# %% [markdown]
# With a server:
#
# ```sh
# docker run -p 8501:8501 -v "$PWD/own_images/served:/models" -e MODEL_NAME=pictures \
#   tensorflow/serving
# keras-meta request localhost:8501 pictures \
#   --support own_images/support --query own_images/queries
# ```
#
# `own_images/served/pictures/README.md` has the same request in curl, in Python over
# gRPC and in plain Python.
