"""The tab of classes of images: its layout and its events."""

import shlex

import gradio

from keras_meta import zoo
from keras_meta.zoo.app import events, images, models, pad, parts, saving, tab

AUTOMATIC = "automatic: the most accurate"
CHOICE = (
    "The model with the highest accuracy on validation tasks with your number of "
    "classes and examples, as `keras-meta learn` chooses it."
)
HELP = f"""\
1. Type the name of a class and press Enter; name two to {images.MOST_CLASSES} classes.
2. Draw an example of the chosen class and press "Add to ...", or upload images. The
   first class without an example is always chosen; choose another for more examples.
   Draw large: the models were trained on characters that fill a square.
3. Draw another image and press "Classify", or upload images to classify. The first
   prediction of a model takes some seconds.
"""
ADD = "Add to {}"
# Tasks of a visitor that "Undo last change" returns to.
KEPT = 50


class ImageTab(tab.Tab):
    """The components of the tab, and the functions of its events. See `Tab`."""

    def __init__(self, directory, temporary):
        super().__init__(directory, temporary)
        # The tasks so far, the newest last.
        self.history = gradio.State((images.Task(),))
        self.prediction = gradio.State(None)
        # The query that is shown, and the entry that the inner steps are set for.
        self.shown, self.tuned = gradio.State(None), gradio.State(None)
        gradio.Markdown(HELP)
        with gradio.Row():
            with gradio.Column(min_width=300):
                self._lay_inputs()
            with gradio.Column(min_width=300):
                self._lay_outputs()
        self._connect()

    def _lay_inputs(self):
        self.name = gradio.Textbox(
            label="New class",
            placeholder="its name",
            max_lines=1,
            submit_btn="Add",
            elem_id="class-name",
        )
        self.classes = gradio.Radio(
            [], label="Class of the next example", elem_id="classes"
        )
        self.pad = pad.component(elem_id="pad")
        with gradio.Row():
            self.clear = parts.button("Clear pad", "clear")
            self.undo = parts.button("Undo last change", "undo")
            self.remove = parts.button("Remove chosen class", "remove")
        with gradio.Row():
            self.draw_example = gradio.Button(
                ADD.format("class"), min_width=120, size="md", elem_id="draw-example"
            )
            self.draw_query = gradio.Button(
                "Classify",
                variant="primary",
                min_width=120,
                size="md",
                elem_id="draw-query",
            )
        with gradio.Row():
            self.example_files = parts.uploads("Upload examples", "example-files")
            self.query_files = parts.uploads("Upload to classify", "query-files")
        self.examples = parts.gallery("Examples", "examples")

    def _lay_outputs(self):
        self.label = gradio.Label(
            label="Prediction",
            num_top_classes=images.MOST_CLASSES,
            elem_id="prediction",
        )
        self.queries = parts.gallery("Images to classify", "queries")
        with gradio.Row():
            self.predict = parts.button("Predict again", "predict")
            self.forget = parts.button("Remove these images", "forget")
        self.notes = gradio.Markdown(elem_id="notes")
        self.entry = gradio.Dropdown(
            [(AUTOMATIC, ""), *models.names("images")],
            value="",
            label="Model",
            elem_id="entry",
        )
        with gradio.Accordion("About the model", open=False):
            self.card = gradio.Markdown(CHOICE, elem_id="card")
        self.steps = gradio.Slider(
            0,
            models.MOST_STEPS,
            step=1,
            label="Inner steps",
            visible=False,
            elem_id="steps",
        )
        with gradio.Accordion(
            "Prediction by inner step", open=False, visible=False, elem_id="by-step"
        ) as self.by_step:
            self.compute = parts.button("Compute", "compute")
            self.step_plot = gradio.Plot(show_label=False, elem_id="step-plot")
        with gradio.Accordion(
            "Shrinkage factors by module", open=False, visible=False, elem_id="shares"
        ) as self.shares:
            self.share_plot = gradio.Plot(show_label=False)
        with gradio.Row():
            self.save = gradio.Button("Save task", min_width=120, elem_id="save")
            self.export = gradio.Button("Export model", min_width=120, elem_id="export")
        self.saved = gradio.Markdown(elem_id="saved")
        self.download = gradio.DownloadButton(
            "Download", visible=False, elem_id="download"
        )

    def _connect(self):
        task = [self.history, self.classes]
        # Where the task and its prediction are.
        changed = [*task, self.prediction, self.examples, self.queries, self.label]
        changed += [self.notes, self.draw_example, self.by_step, self.step_plot]
        changed += [self.shares, self.share_plot]
        predicted = [*changed, self.card, self.steps, self.tuned, self.shown, self.pad]
        settings = [self.history, self.entry, self.steps, self.tuned]

        events.on(
            [self.name.submit],
            self.add_class,
            [self.history, self.name],
            [*changed, self.name],
        )
        events.on(
            [self.classes.input], self.class_chosen, [self.classes], [self.draw_example]
        )
        for button, function in ((self.undo, self.undone), (self.remove, self.removed)):
            events.on([button.click], function, task, changed)
        events.on([self.forget.click], self.forgotten, task, changed)
        events.on([self.clear.click], lambda: {self.pad: ""}, [], [self.pad])
        events.on(
            [self.draw_example.click],
            self.example_drawn,
            [*task, self.pad],
            [*changed, self.pad],
        )
        events.on(
            [self.example_files.upload],
            self.examples_uploaded,
            [*task, self.example_files],
            changed,
        )
        running = {"model": True, "shown": self.label}
        for event, function, given in (
            (self.draw_query.click, self.query_drawn, [self.classes, self.pad]),
            (
                self.query_files.upload,
                self.queries_uploaded,
                [self.classes, self.query_files],
            ),
            (self.predict.click, self.predicted, []),
            (self.steps.release, self.predicted, []),
            (self.entry.input, self.entry_chosen, []),
        ):
            events.on([event], function, [*settings, *given], predicted, **running)
        events.on(
            [self.queries.select],
            self.query_chosen,
            [self.prediction],
            [self.label, self.shown, self.step_plot],
        )
        events.on(
            [self.compute.click],
            self.steps_plotted,
            [self.history, self.prediction, self.shown],
            [self.step_plot],
            model=True,
            shown=self.step_plot,
        )
        outputs = [self.saved, self.download]
        events.on([self.save.click], self.task_saved, [self.history], outputs)
        events.on(
            [self.export.click],
            self.model_exported,
            settings,
            outputs,
            model=True,
            shown=self.saved,
        )

    # Changes of the task.

    def _changed(self, history, task, chosen):
        """The page after a change, without a prediction.

        Args:
            history: the tasks before it.
            task: the task after it.
            chosen: the class of the next example if every class has one; else it is the
                first without an example.
        """
        names = list(task.examples)
        chosen = next(iter(task.empty), chosen)
        if chosen not in names:
            chosen = (names or [None])[-1]
        choices = [(f"{name} ({len(task.examples[name])})", name) for name in names]
        return {
            **self._unpredicted(task),
            self.history: (*history, task)[-KEPT:],
            self.classes: gradio.Radio(choices=choices, value=chosen),
            self.examples: [
                (parts.thumbnail(image), name)
                for name, examples in task.examples.items()
                for image in examples
            ],
            **self.class_chosen(chosen),
        }

    def _unpredicted(self, task):
        """The page without a prediction of the task."""
        return {
            self.prediction: None,
            self.queries: [(parts.thumbnail(image), "") for image in task.queries],
            self.label: gradio.Label(value=None, label="Prediction"),
            self.notes: "",
            self.by_step: gradio.Accordion(visible=False),
            self.step_plot: None,
            self.shares: gradio.Accordion(visible=False),
            self.share_plot: None,
        }

    def class_chosen(self, chosen):
        """The button that adds an example names the class."""
        return {self.draw_example: gradio.Button(ADD.format(chosen or "class"))}

    def add_class(self, history, name):
        task = history[-1].with_class(name)
        models.start_early()
        return {**self._changed(history, task, name.strip()), self.name: ""}

    def removed(self, history, chosen):
        return self._changed(history, history[-1].without_class(chosen), None)

    def forgotten(self, history, chosen):
        return self._changed(history, history[-1].without_queries(), chosen)

    def undone(self, history, chosen):
        *before, task = self.earlier(history)
        return self._changed(tuple(before), task, chosen)

    def example_drawn(self, history, chosen, drawing):
        task = history[-1].with_examples(chosen, [images.drawn(drawing)])
        return {**self._changed(history, task, chosen), self.pad: ""}

    def examples_uploaded(self, history, chosen, paths):
        history[-1].check_class(chosen)  # before the files are read
        task = history[-1].with_examples(chosen, _read(paths))
        return self._changed(history, task, chosen)

    # Predictions.

    def query_drawn(self, history, entry, steps, tuned, chosen, drawing):
        task = history[-1].with_queries([images.drawn(drawing)])
        page = {**self._changed(history, task, chosen), self.pad: ""}
        return page | self._predicted_if_complete(task, entry, steps, tuned)

    def queries_uploaded(self, history, entry, steps, tuned, chosen, paths):
        task = history[-1].with_queries(_read(paths))
        page = self._changed(history, task, chosen)
        return page | self._predicted_if_complete(task, entry, steps, tuned)

    def entry_chosen(self, history, entry, steps, tuned):
        page = {self.card: models.description(entry) if entry else CHOICE}
        if history[-1].queries:
            page |= self._predicted_if_complete(history[-1], entry, steps, tuned)
        return page

    def predicted(self, history, entry, steps, tuned):
        task = history[-1]
        name, _ = images.entry(task, entry)
        # The slider is set for one entry; another begins with its own number.
        steps = self.steps_of(name, steps, tuned)
        prediction = images.predict(task, entry, steps)
        captions, last = prediction.captions(), len(task.queries) - 1
        pictures = map(parts.thumbnail, task.queries)
        notes = [f"{name} learned {len(prediction.names)} classes."]
        if prediction.reason:
            notes = [f"Chosen: {prediction.reason}."]
        has_steps = prediction.steps is not None
        learner = models.image_learner(name, steps)
        shares = models.has_shares(learner)
        return {
            self.prediction: prediction,
            self.queries: list(zip(pictures, captions, strict=True)),
            self.label: self._label(prediction, last),
            self.shown: last,
            self.notes: "\n\n".join(notes + prediction.notes),
            self.card: models.description(name),
            self.steps: gradio.Slider(value=prediction.steps or 0, visible=has_steps),
            self.tuned: name if has_steps else None,
            self.by_step: gradio.Accordion(visible=has_steps),
            self.step_plot: None,
            self.shares: gradio.Accordion(visible=shares),
            self.share_plot: self.share_plot_of(learner, len(task.support()[0]))
            if shares
            else None,
        }

    def _predicted_if_complete(self, task, entry, steps, tuned):
        """The prediction; for an incomplete task, a sentence that states the reason."""
        try:
            return self.predicted((task,), entry, steps, tuned)
        except ValueError as error:
            events.state(error)
            return {**self._unpredicted(task), self.notes: KEPT_QUERIES}

    def _label(self, prediction, query):
        return gradio.Label(
            value=prediction.confidences(query),
            label=f"Prediction of image {query + 1}",
        )

    def query_chosen(self, prediction, event: gradio.SelectData):
        if prediction is None:
            raise ValueError("expected a prediction first, press “Predict again”.")
        return {
            self.label: self._label(prediction, event.index),
            self.shown: event.index,
            self.step_plot: None,
        }

    def steps_plotted(self, history, prediction, shown):
        if prediction is None:
            raise ValueError("expected a prediction first, press “Predict again”.")
        steps = models.steps_shown(prediction.steps)
        rows = images.by_step(history[-1], prediction.entry, steps, shown)
        figure = images.by_step_figure(prediction.names, steps, rows)
        return {self.step_plot: figure}

    # Files.

    def task_saved(self, history):
        folder = saving.save_images(history[-1], self.directory)
        return self.offered(
            folder,
            SAVED.format(
                *(shlex.quote(str(folder / part)) for part in ("", *saving.PARTS))
            ),
        )

    def model_exported(self, history, entry, steps, tuned):
        task = history[-1]
        name, _ = images.entry(task, entry)
        steps = self.steps_of(name, steps, tuned)
        folder = self.folder()
        folder = saving.export_images(task, name, steps, folder)
        transductive = zoo.card(name).normalization == "transductive"
        text = EXPORTED.format(name) + TRANSDUCTIVE * transductive
        return self.offered(folder, text)


KEPT_QUERIES = "Not classified yet. After the correction, press “Predict again”."
SAVED = """\
Saved in `{0}`. Other commands read it:

```sh
keras-meta learn {0}
keras-meta request ADDRESS NAME --support {1} --query {2}
```
"""
EXPORTED = (
    "{}, adapted to these examples: `model.keras` for Keras, `1/` for TensorFlow "
    "Serving, and `task.json` with the classes and the preprocessing of images."
)


TRANSDUCTIVE = (
    " The exported model normalizes with the statistics of the examples, so that its "
    "predictions differ from those on this page."
)


def _read(paths):
    """The images of uploaded files; states which could not be read.

    Raises:
        ValueError: none could be read.
    """
    found, sentences = images.read(paths)
    if not found:
        raise ValueError(" ".join(sentences))
    for sentence in sentences:
        events.state(sentence)
    return found
