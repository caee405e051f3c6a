"""The tab of a curve: its layout and its events."""

import pathlib
import shlex

import gradio

from keras_meta.zoo import choice
from keras_meta.zoo.app import curves, events, models, parts, saving, tab

HELP = """\
Click on the picture to add points of a curve, or upload a CSV file with columns x,y
whose rows without y are predicted.
"""
# Curves of a visitor that "Undo" returns to.
KEPT = 200
SAVED = """\
Saved in `{0}`. Other commands read it:

```sh
keras-meta learn {0}
keras-meta request ADDRESS NAME --support {0}
```
"""
EXPORTED = (
    "{}, adapted to these points: `model.keras` for Keras, `1/` for TensorFlow "
    "Serving, and `task.json` with the units of x and y."
)


class CurveTab(tab.Tab):
    """The components of the tab, and the functions of its events. See `Tab`."""

    def __init__(self, directory, temporary):
        super().__init__(directory, temporary)
        # The curves so far, the newest last.
        self.history = gradio.State((curves.Curve(),))
        # The entry that the inner steps are set for.
        self.tuned = gradio.State(None)
        gradio.Markdown(HELP)
        default = choice.for_curves().name
        self.picture = gradio.Image(
            curves.picture(curves.Curve()),
            show_label=False,
            interactive=False,
            buttons=[],
            format="png",
            elem_id="curve",
        )
        with gradio.Row():
            self.undo = parts.button("Undo last change", "curve-undo")
            self.clear = parts.button("Clear", "curve-clear")
            self.file = gradio.UploadButton(
                "Upload points", size="sm", min_width=80, elem_id="points-file"
            )
        with gradio.Row():
            with gradio.Column(min_width=300):
                self.entry = gradio.Dropdown(
                    models.names("curves"),
                    value=default,
                    label="Model",
                    elem_id="curve-entry",
                )
                with gradio.Accordion("About the model", open=False):
                    self.card = gradio.Markdown(
                        models.description(default), elem_id="curve-card"
                    )
                self.steps = gradio.Slider(
                    0,
                    models.MOST_STEPS,
                    step=1,
                    label="Inner steps",
                    visible=False,
                    elem_id="curve-steps",
                )
            with gradio.Column(min_width=300):
                self.queries = gradio.Textbox(
                    "0",
                    label="x to predict",
                    max_lines=1,
                    submit_btn="Predict",
                    elem_id="curve-queries",
                )
                self.table = gradio.Markdown(elem_id="curve-table")
                self.notes = gradio.Markdown(elem_id="curve-notes")
        with gradio.Accordion(
            "Curve by inner step", open=False, visible=False, elem_id="curve-by-step"
        ) as self.by_step:
            self.compute = gradio.Button("Compute", size="sm", elem_id="curve-compute")
            self.step_plot = gradio.Plot(show_label=False, elem_id="curve-step-plot")
        with gradio.Accordion(
            "Shrinkage factors by module", open=False, visible=False
        ) as self.shares:
            self.share_plot = gradio.Plot(show_label=False)
        with gradio.Row():
            self.save = gradio.Button("Save task", min_width=120, elem_id="curve-save")
            self.export = gradio.Button(
                "Export model", min_width=120, elem_id="curve-export"
            )
        self.saved = gradio.Markdown(elem_id="curve-saved")
        self.download = gradio.DownloadButton(
            "Download", visible=False, elem_id="curve-download"
        )
        self._connect()

    def _connect(self):
        settings = [self.history, self.entry, self.steps, self.tuned]
        page = [self.history, self.tuned, self.picture, self.table, self.notes]
        page += [self.queries, self.card, self.steps, self.by_step, self.step_plot]
        page += [self.shares, self.share_plot]
        for event, function, given in (
            (self.picture.select, self.clicked, []),
            (self.undo.click, self.undone, []),
            (self.clear.click, self.cleared, []),
            (self.file.upload, self.uploaded, [self.file]),
            (self.queries.submit, self.asked, [self.queries]),
            (self.entry.input, self.shown, []),
            (self.steps.release, self.shown, []),
        ):
            events.on(
                [event],
                function,
                [*settings, *given],
                page,
                model=True,
                shown=self.table,
            )
        events.on(
            [self.compute.click],
            self.steps_plotted,
            settings,
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

    def clicked(self, history, entry, steps, tuned, event: gradio.SelectData):
        return self._changed(
            history, history[-1].clicked(*event.index), entry, steps, tuned
        )

    def uploaded(self, history, entry, steps, tuned, path):
        return self._changed(
            history, curves.read(pathlib.Path(path)), entry, steps, tuned
        )

    def asked(self, history, entry, steps, tuned, text):
        curve = history[-1].with_queries(text)
        return self._changed(history, curve, entry, steps, tuned)

    def cleared(self, history, entry, steps, tuned):
        return self._changed(history, curves.Curve(), entry, steps, tuned)

    def undone(self, history, entry, steps, tuned):
        *before, curve = self.earlier(history)
        return self._changed(tuple(before), curve, entry, steps, tuned)

    def _changed(self, history, curve, entry, steps, tuned):
        """The page after a change of the points, which stay if nothing fits them."""
        history = (*history, curve)[-KEPT:]
        try:
            page = self.shown(history, entry, steps, tuned)
        except ValueError as error:
            events.state(error)
            page = {self.picture: curves.picture(curve), self.table: "", self.notes: ""}
        return {**page, self.history: history}

    def shown(self, history, entry, steps, tuned):
        """The page with the fit to the newest points."""
        curve = history[-1]
        # The slider is set for one entry; another begins with its own number.
        steps = self.steps_of(entry, steps, tuned)
        page = {
            self.queries: " ".join(f"{x:.12g}" for x in curve.queries),
            self.card: models.description(entry),
            self.step_plot: None,
        }
        if not curve.points:
            picture = curves.picture(curve)
            return {**page, self.picture: picture, self.table: "", self.notes: ""}
        fit = curves.predict(curve, entry, steps)
        learner = models.curve_learner(entry, steps)
        has_steps, shares = fit.steps is not None, models.has_shares(learner)
        return {
            **page,
            self.picture: curves.picture(curve, fit),
            self.table: fit.table(curve.queries),
            self.notes: "\n\n".join(fit.notes),
            self.steps: gradio.Slider(value=fit.steps or 0, visible=has_steps),
            self.tuned: entry if has_steps else None,
            self.by_step: gradio.Accordion(visible=has_steps),
            self.shares: gradio.Accordion(visible=shares),
            self.share_plot: self.share_plot_of(learner, len(curve.points))
            if shares
            else None,
        }

    def steps_plotted(self, history, entry, steps, tuned):
        shown = models.steps_shown(int(steps))
        return {self.step_plot: curves.by_step_figure(history[-1], entry, shown)}

    def task_saved(self, history):
        folder = saving.save_points(history[-1], self.directory)
        text = SAVED.format(shlex.quote(str(folder / saving.POINTS)))
        return self.offered(folder, text)

    def model_exported(self, history, entry, steps, tuned):
        steps = self.steps_of(entry, steps, tuned)
        folder = self.folder()
        folder = saving.export_curve(history[-1], entry, steps, folder)
        return self.offered(folder, EXPORTED.format(entry))
