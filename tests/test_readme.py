"""The README's first program runs as it stands."""

import pathlib
import re

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"


def test_first_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("keras_meta.runtime.configure", lambda: None)  # done already
    program = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    names = {}
    exec(compile(program, str(README), "exec"), names)
    assert names["logits"].shape == (1, 75, 5)
    assert (tmp_path / "served" / "glyphs" / "1" / "saved_model.pb").exists()
