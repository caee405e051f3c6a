# %% [markdown]
# # Your own images, from a folder to a served model
#
# A folder with a sub-folder of images for each class is all it takes:
#
# ```
# pictures/
#   acorn/    1.png 2.png ...
#   beetle/   1.png 2.png ...
#   ...
# ```
#
# This tutorial loads a model that has learned how to learn, meta-trains it a little on
# some of the classes, measures it on classes it has never seen, learns a new task from
# one picture of each class, fine-tunes it with Keras `fit`, exports it, and asks the
# export.
#
# It runs as it stands: where there are no pictures, it draws forty characters of an
# invented alphabet on stained paper and saves them there. Name your own folder in their
# place. It needs five classes or more, each of six images or more (one to learn from,
# five to predict); with twenty classes or more the unseen ones make tasks of five
# classes, with fewer they make smaller tasks. All that it writes goes into
# `own_images/`.

# %%
import pathlib
import shutil
import subprocess

import keras
import numpy as np
import PIL.Image
import tensorflow as tf

import keras_meta as km
from keras_meta import plots, zoo

km.runtime.configure()  # threads that suit many small tasks; first of all

OUT = pathlib.Path("own_images")
PICTURES = OUT / "pictures"
STEPS = 100  # of meta-training; a thousand and more on pictures unlike drawings
LEAST = 5  # classes
EPOCHS = 20  # of fine-tuning

# %%
if not PICTURES.exists():
    drawn = km.tasks.glyphs(range(5000, 5040))
    random = np.random.RandomState(0)
    for name in drawn.class_ids:
        (PICTURES / f"character{name}").mkdir(parents=True)
        for number, image in enumerate(drawn.images_of(name)):
            # Stains are large and dark, and the paper is grainy.
            stains = random.uniform(0.35, 1, [4, 4, 1])
            stains = tf.image.resize(stains, image.shape[:2], "bicubic")
            stained = 255 * image * stains + random.normal(0, 15, image.shape)
            file = PICTURES / f"character{name}" / f"{number}.png"
            keras.utils.save_img(file, np.clip(stained, 0, 255), scale=False)

folders = sorted(folder for folder in PICTURES.iterdir() if folder.is_dir())
if len(folders) < LEAST:
    raise SystemExit(f"expected {LEAST} classes in {PICTURES}, found {len(folders)}")

# %% [markdown]
# ## Episodes
#
# `zoo.load` gives a compiled Keras model, which knows how its images are prepared:
# resized, grey, ink on paper made light on dark. `keras-meta list` shows what else
# there is. The pool keeps the images small in memory; classes to test are split off
# first.

# %%
learner = zoo.load("maml.glyphs_5w1s-inductive")
pool = km.ClassPool.from_directory(PICTURES, learner.preprocess)
classes = len(pool.class_ids)
tested = max(classes // 4, 2)
train, test = pool.split_classes(classes - tested, tested, seed=0)
print(f"{classes} classes: {len(train.class_ids)} to train, {len(test.class_ids)} not")

# Episode i is a pure function of (seed, i): both rows below see the same tasks.
ways = min(tested, 5)  # the model has five outputs, and tasks may have fewer classes
unseen = test.episodes(ways, shots=1, queries=5, seed=1).batch(16)

# %% [markdown]
# ## Meta-training is `fit`
#
# Each meta-step learns sixteen tasks, asks about other images of the same classes, and
# moves the start from which the next tasks are learned. The accuracy over unseen
# classes comes with its 95% interval. The model was trained on clean drawings, and
# stains mislead it. Here it learns to ignore them, from other classes than those that
# it is tested on. Quarter turns of the training classes are further classes. (To begin
# from random weights, put `km.MAML(km.networks.conv4((28, 28, 1), outputs=5),
# preprocess=learner.preprocess)` in place of the pretrained model.)

# %%
learner.compile(keras.optimizers.Adam(1e-3))
before = learner.evaluate(unseen, steps=10, return_dict=True, verbose=0)
episodes = train.with_rotations().episodes(ways=5, shots=1, queries=5, seed=0)
learner.fit(episodes.batch(16).prefetch(2), steps_per_epoch=STEPS, verbose=0)
after = learner.evaluate(unseen, steps=10, return_dict=True, verbose=0)
for when, found in (("before", before), ("after", after)):
    accuracy, interval = found["accuracy"], found["accuracy_95"]
    print(f"{when}: {accuracy:.1%} ± {interval:.1%} of unseen classes, 160 tasks")

# %% [markdown]
# ## Learn a task from one picture of each class
#
# `adapt` learns, `infer` answers. All has a leading axis of tasks, T: here it is one.

# %%
episode, query_y = next(iter(test.episodes(ways, 1, 5, seed=2).batch(1)))
support_x, support_y = episode["support_x"], episode["support_y"]
query_x = episode["query_x"]

state = learner.adapt(support_x, support_y)
probabilities = tf.nn.softmax(learner.infer(state, query_x))[0, :, :ways].numpy()
right = np.mean(probabilities.argmax(-1) == query_y[0])
print(f"learned from {ways} pictures: {right:.0%} of {len(query_y[0])} are right")

# Ink is dark again where the preparation made it light.
paper = 1 - support_x[0].numpy(), 1 - query_x[0].numpy()
figure = plots.predictions(
    paper[0], support_y[0], paper[1], probabilities, query_y=query_y[0]
)
figure.savefig(OUT / "predictions.png")
PIL.Image.open(OUT / "predictions.png")

# %% [markdown]
# ## Fine-tune it as any Keras model
#
# `finetune` gives an ordinary, compiled `keras.Model` that starts where `adapt` ended.
# Callbacks, `validation_data`, `save` and `load_model` work as you know them.

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
# ## Export it, and ask the export
#
# The export is a SavedModel for TensorFlow Serving that learns inside the request. It
# needs no keras-meta to run. `keras-meta request` sends the pictures of two folders to
# a server; with `--local` it answers the very same request through the loader and
# session that TensorFlow Serving uses, so that you can try it without one.

# %%
path = km.export(learner, OUT / "served/pictures")
print(f"exported to {path}")

known, asked = OUT / "known", OUT / "asked"
for folder in (known, asked):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
for folder in folders[:5]:
    files = sorted(folder.iterdir())
    (known / folder.name).mkdir()
    shutil.copy(files[0], known / folder.name)
    shutil.copy(files[1], asked / f"{folder.name}{files[1].suffix}")

command = ["keras-meta", "request", "pictures", "--local", OUT / "served"]
command += ["--support", known, "--query", asked]
answer = subprocess.run(command, capture_output=True, text=True)
print(answer.stdout or answer.stderr)

# %% [markdown]
# With a server, the page in `own_images/served/pictures/README.md` has the same request
# in curl, in Python over gRPC and in plain Python:
#
# ```sh
# docker run -p 8501:8501 -v "$PWD/own_images/served:/models" -e MODEL_NAME=pictures \
#   tensorflow/serving
# keras-meta request localhost:8501 pictures \
#   --support own_images/known --query own_images/asked
# ```
