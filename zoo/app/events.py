"""The page's events: after a mistake it states one sentence and keeps what it has."""

import functools
import html

import gradio

# Seconds that a sentence stays on the page.
SHOWN = 15


def state(error):
    """States an error, or a sentence, on the page."""
    text = html.escape(" ".join(str(error).split()))
    gradio.Warning(text, duration=SHOWN)


def on(events, function, inputs, outputs, model=False, shown=None):
    """Calls a function at events; if it makes a mistake, nothing on the page changes.

    Args:
        events: such as `button.click`, a list.
        function: of the values of the inputs; it returns `{output: value}`.
        inputs: components, a list.
        outputs: components that it may change, a list.
        model: whether it runs a model. One runs at a time, because it takes all cores.
        shown: the component that shows that it is running; None shows nothing.
    """

    @functools.wraps(function)
    def run(*values):
        try:
            return function(*values)
        except (ValueError, OSError) as error:
            state(error)
            return gradio.skip()

    gradio.on(
        events,
        run,
        inputs,
        outputs,
        api_visibility="private",
        show_progress="hidden" if shown is None else "minimal",
        show_progress_on=shown,
        concurrency_limit=1 if model else "default",
        concurrency_id="model" if model else None,
    )
