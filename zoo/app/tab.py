"""What the tabs of the page share: undo, inner steps, plots of scales, downloads."""

import tempfile

import gradio

from keras_meta.zoo.app import saving


class Tab:
    """A tab of the page.

    What a visitor has put in is in `gradio.State`, and nothing of it in this object. A
    subclass has the components `saved` and `download`.

    Args:
        directory: gets saved tasks.
        temporary: gets files to download.
    """

    def __init__(self, directory, temporary):
        self.directory, self.temporary = directory, temporary

    @staticmethod
    def earlier(history):
        """The states before the last change, the newest last.

        Raises:
            ValueError: there was no change.
        """
        if len(history) == 1:
            raise ValueError("expected a change to undo, there is none.")
        return history[:-1]

    @staticmethod
    def steps_of(name, steps, tuned):
        """The inner steps of an entry, or None for its own number.

        Args:
            name: of the entry.
            steps: the value of the slider.
            tuned: the entry that the slider is set for.
        """
        return int(steps) if name == tuned else None

    @staticmethod
    def share_plot_of(learner, examples):
        """Draws the scale of each module, and its shrinkage factor at S examples."""
        from keras_meta import plots

        return plots.scales(learner, examples)

    def folder(self):
        """A new folder for a file to download."""
        return tempfile.mkdtemp(dir=self.temporary)

    def offered(self, folder, text):
        """The page after a folder was written: a text, and a button for its zip."""
        file = saving.zipped(folder, self.folder())
        label = f"Download {folder.name}.zip"
        button = gradio.DownloadButton(label, value=file, visible=True)
        return {self.saved: text, self.download: button}
