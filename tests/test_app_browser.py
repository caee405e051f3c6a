"""Tests of the page of `keras-meta app` in a browser without a network."""

import contextlib
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import time
import zipfile

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest

webdriver = pytest.importorskip("selenium.webdriver")
if importlib.util.find_spec("gradio") is None:  # the tests start it in a process
    pytest.skip("expected the extra app", allow_module_level=True)
from selenium.common import exceptions  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BROWSER and DRIVER),
        reason="needs a browser: apt-get install chromium chromium-driver",
    ),
]
FLAGS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run
--disable-background-networking --disable-component-update --disable-sync""".split()
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
DESKTOP, PHONE = (1200, 900), (390, 844)
# The first prediction waits for TensorFlow and a model: long on a busy machine.
SECONDS = 300
# Pen moves in pixels, from the middle of the pad.
VEE = [(-90, -90), (90, 170), (80, -160)]
LIKE_VEE = [(-80, -95), (80, 165), (75, -150)]
BAR = [(-100, 0), (200, 5)]
ENTRY = "sigma_maml.omniglot_5w1s-inductive"


@contextlib.contextmanager
def serving(tasks):
    """Runs a process that serves the page at a free port."""
    command = [sys.executable, "-m", "keras_meta", "app", "--no-browser"]
    command += ["--out", str(tasks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_address(process):
    return process.stdout.readline().split()[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Returns the URL of the page and the folder of saved tasks."""
    tasks = tmp_path_factory.mktemp("server") / "tasks"
    with serving(tasks) as process:
        yield read_address(process), tasks


@pytest.fixture
def visit(server, tmp_path):
    """Returns a function that opens the page: `visit(size) -> Visitor`."""
    with contextlib.ExitStack() as stack:

        def visit(size=DESKTOP):
            options = webdriver.ChromeOptions()
            options.binary_location = BROWSER
            folder = tmp_path / f"profile-{time.monotonic_ns()}"
            options.add_argument(f"--user-data-dir={folder}")
            options.add_argument(f"--window-size={size[0]},{size[1]}")
            for flag in (*FLAGS, OFFLINE):
                options.add_argument(flag)
            downloads = {"download.default_directory": str(tmp_path)}
            options.add_experimental_option("prefs", downloads)
            logs = {"performance": "ALL", "browser": "ALL"}
            options.set_capability("goog:loggingPrefs", logs)
            service = webdriver.ChromeService(DRIVER)
            driver = webdriver.Chrome(options=options, service=service)
            stack.callback(driver.quit)
            return Visitor(driver, server[0], size)

        yield visit


class Visitor:
    """A browser with the actions of a user on the page."""

    def __init__(self, driver, url, size):
        self.driver, self.url, self.size = driver, url, size
        self.resize(*size)
        self.open()

    def resize(self, width, height):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**metrics, "mobile": width < 600}
        )

    def open(self):
        self.driver.get(self.url)
        self.until(lambda: self.driver.find_elements(By.CSS_SELECTOR, "#pad canvas"))

    def until(self, condition):
        """Waits until a condition holds, and returns its value."""
        end, reason = time.monotonic() + SECONDS, ""
        while time.monotonic() < end:
            try:
                if value := condition():
                    return value
            except exceptions.WebDriverException as error:
                reason = error.msg
            time.sleep(0.2)
        raise TimeoutError(f"{self.text()}\n{reason}")

    def text(self, name=None):
        """Returns the text of a part of the page, or of the whole page."""
        if name is None:
            return self.driver.find_element(By.TAG_NAME, "body").text
        return self.driver.find_element(By.ID, name).text

    def wait_for(self, text, name=None):
        self.until(lambda: text in self.text(name))

    def find(self, selector):
        element = self.driver.find_element(By.CSS_SELECTOR, selector)
        script = "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})"
        self.driver.execute_script(script, element)
        return element

    def press(self, name):
        self.until(lambda: self.find(f"#{name}").click() or True)

    def add_class(self, name):
        self.find("#class-name textarea, #class-name input").send_keys(
            name + Keys.ENTER
        )

    def draw(self, moves):
        """Draws with a pen."""
        actions = webdriver.ActionChains(self.driver, duration=50)
        actions.move_to_element_with_offset(self.find("#pad canvas"), *moves[0])
        actions.click_and_hold()
        for move in moves[1:]:
            actions.move_by_offset(*move)
        actions.release().perform()

    def draw_example(self, name, moves, count=1):
        """Adds a class with one example."""
        self.add_class(name)
        self.wait_for(f"{name} (0)", "classes")
        self.draw(moves)
        self.press("draw-example")
        self.wait_for(f"{name} ({count})", "classes")

    def upload(self, name, *paths):
        inputs = self.driver.find_elements(
            By.XPATH, f"//*[@id='{name}']/preceding::input[@type='file'][1]"
        )
        # Otherwise the driver adds to the files of an earlier call.
        self.driver.execute_script("arguments[0].value = ''", inputs[0])
        inputs[0].send_keys("\n".join(map(str, paths)))

    def unfold(self, name):
        """Opens an accordion."""

        def click_if_closed():
            button = self.find(f"#{name} button.label-wrap")
            if "open" not in button.get_attribute("class").split():
                button.click()
            return "open" in button.get_attribute("class").split()

        self.until(click_if_closed)

    def choose(self, name, value):
        """Selects a value in a drop-down list."""
        box = self.find(f"#{name} input")
        box.click()
        box.send_keys(Keys.CONTROL + "a")
        box.send_keys(value + Keys.ENTER)

    def see(self, path):
        """Takes a screenshot of the whole page and checks that its width fits."""
        width, height = self.driver.execute_script(
            "const page = document.documentElement;"
            "return [page.scrollWidth, page.scrollHeight]"
        )
        self.resize(self.size[0], height)
        time.sleep(0.5)
        self.driver.save_screenshot(str(path))
        self.resize(*self.size)
        assert width <= self.size[0]

    def hosts(self):
        """Returns the hosts that the page has sent requests to."""
        hosts = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] != "Network.requestWillBeSent":
                continue
            scheme, _, rest = message["params"]["request"]["url"].partition("://")
            if scheme in ("http", "https", "ws", "wss"):
                hosts.add(rest.split("/")[0].split(":")[0])
        return hosts

    def errors(self):
        """Returns the errors in the browser's console."""
        log = self.driver.get_log("browser")
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]


def write_drawing(path, points):
    image = PIL.Image.new("L", (100, 100), 255)
    PIL.ImageDraw.Draw(image).line(points, fill=0, width=4)
    image.save(path)
    return path


def learn(path, *options):
    """Runs `keras-meta learn`; returns its JSON."""
    command = [sys.executable, "-m", "keras_meta", "learn", str(path), "--json"]
    out = ["--out", str(path.parent / "picture.png")]
    process = subprocess.run([*command, *out, *options], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_classes(visit, server, size, tmp_path):
    visitor = visit(size)
    visitor.see(tmp_path / "empty.png")
    visitor.draw_example("vee", VEE)
    visitor.draw_example("bar", BAR)
    visitor.draw(LIKE_VEE)
    visitor.press("draw-query")
    visitor.wait_for("vee", "prediction")
    visitor.wait_for("validation tasks of 2 ways, 1 shot from Omniglot", "notes")
    visitor.see(tmp_path / "predicted.png")

    visitor.press("save")
    visitor.wait_for("keras-meta learn", "saved")
    visitor.see(tmp_path / "saved.png")
    folder = pathlib.Path(visitor.text("saved").split()[2].rstrip("."))
    assert folder.parent == server[1]
    (row,) = learn(folder)["predictions"]
    assert row["class"] == "vee"
    assert f"vee {row['confidence']:.1%}" in visitor.text("queries")
    visitor.press("download")
    name = f"{folder.name}.zip"
    visitor.until(lambda: (tmp_path / name).exists())
    names = zipfile.ZipFile(tmp_path / name).namelist()
    assert f"{folder.name}/support/vee/1.png" in names

    visitor.choose("entry", ENTRY)
    visitor.wait_for(f"{ENTRY} learned 2 classes", "notes")
    visitor.unfold("by-step")
    visitor.press("compute")
    visitor.until(lambda: visitor.find("#step-plot img"))
    visitor.unfold("shares")
    visitor.see(tmp_path / "steps.png")
    visitor.press("export")
    visitor.wait_for("adapted to these examples", "saved")
    visitor.press("download")
    visitor.until(lambda: (tmp_path / f"{ENTRY}.zip").exists())
    names = zipfile.ZipFile(tmp_path / f"{ENTRY}.zip").namelist()
    files = ["model.keras", "task.json", "1/saved_model.pb"]
    assert {f"{ENTRY}/{name}" for name in files} <= set(names)
    assert visitor.hosts() == {"127.0.0.1"}
    assert not visitor.errors()


def test_five_drawings(visit, tmp_path):
    visitor = visit()
    for name in ("vee", "bar", "post", "slash", "roof"):
        visitor.add_class(name)
        visitor.wait_for(f"{name} (0)", "classes")
        visitor.wait_for("Add to vee", "draw-example")
    # A query before the examples are complete is kept.
    visitor.draw(LIKE_VEE)
    visitor.press("draw-query")
    visitor.wait_for("press “Predict again”", "notes")
    moves = {
        "vee": VEE,
        "bar": BAR,
        "post": [(0, -100), (5, 200)],
        "slash": [(-80, 90), (170, -180)],
        "roof": [(-90, 90), (90, -170), (80, 160)],
    }
    # The page selects the next class without an example, in the order of creation.
    names = [*moves]
    for name, next_name in zip(names, [*names[1:], "roof"], strict=True):
        visitor.wait_for(f"Add to {name}", "draw-example")
        visitor.draw(moves[name])
        visitor.press("draw-example")
        visitor.wait_for(f"{name} (1)", "classes")
        visitor.wait_for(f"Add to {next_name}", "draw-example")
    visitor.find("#classes input[value='bar']").click()
    visitor.wait_for("Add to bar", "draw-example")
    visitor.press("predict")
    visitor.wait_for("vee", "prediction")
    assert visitor.text("queries").splitlines()[-1].startswith("vee ")
    visitor.see(tmp_path / "five.png")
    assert not visitor.errors()


def test_uploads_and_error_messages(visit, tmp_path):
    visitor = visit()
    drawings = [
        write_drawing(tmp_path / f"{i}.png", [(10, 10), (50 + i, 90), (90, 10)])
        for i in range(2)
    ]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    (tmp_path / "text.txt").write_text("no image")
    visitor.upload("example-files", *drawings)
    visitor.wait_for("expected a class to be chosen, add one first.")
    visitor.add_class("vee")
    visitor.wait_for("vee (0)", "classes")
    visitor.upload("example-files", drawings[0], tmp_path / "broken.png", drawings[1])
    visitor.wait_for("vee (2)", "classes")
    visitor.wait_for(
        "expected an image file, could not read broken.png: Truncated File Read"
    )
    visitor.upload("example-files", tmp_path / "text.txt")
    visitor.wait_for("expected an image file, text.txt is none.")
    visitor.press("draw-example")
    visitor.wait_for("expected a drawing, the pad is empty.")
    for name in ("a/b", ".hidden", "VEE"):
        visitor.add_class(name)
        box = visitor.find("#class-name textarea, #class-name input")
        visitor.wait_for(name.split("/")[-1])
        assert visitor.text("classes").count("(") == 1
        box.send_keys(Keys.CONTROL + "a", Keys.DELETE)

    # A class without examples: the page keeps the query.
    visitor.add_class("empty")
    visitor.wait_for("empty (0)", "classes")
    visitor.upload("query-files", drawings[0])
    visitor.wait_for("expected an example of each class, got none of empty.")
    assert len(visitor.find("#queries").find_elements(By.TAG_NAME, "img")) == 1
    visitor.draw(BAR)
    visitor.press("draw-example")
    visitor.wait_for("empty (1)", "classes")
    visitor.press("predict")
    visitor.wait_for("vee", "prediction")

    for number in range(18):
        visitor.add_class(f"c{number}")
        visitor.wait_for(f"c{number} (0)", "classes")
    visitor.add_class("one more")
    visitor.wait_for("expected at most 20 classes, got one more in addition.")
    assert visitor.text("classes").count("(") == 20
    visitor.see(tmp_path / "mistakes.png")
    visitor.press("undo")
    visitor.until(lambda: "c17" not in visitor.text("classes"))
    assert not visitor.errors()


def test_visitors_have_separate_tasks(visit):
    first, second = visit(), visit(PHONE)
    first.draw_example("kappa", VEE)
    second.draw_example("delta", BAR)
    assert "delta" not in first.text() and "kappa" not in second.text()
    first.draw_example("bar", BAR)
    second.draw_example("vee", VEE)
    for visitor in (first, second):
        visitor.draw(LIKE_VEE)
        visitor.press("draw-query")
    first.wait_for("kappa", "prediction")
    second.wait_for("vee", "prediction")
    assert "delta" not in first.text() and "kappa" not in second.text()
    first.open()  # reloads the page
    assert "kappa (1)" not in first.text("classes")
    first.draw_example("third", VEE)
    assert "vee (1)" in second.text("classes")


def test_curve(visit, server, tmp_path):
    visitor = visit(PHONE)
    visitor.until(lambda: visitor.find("[role=tab]:nth-of-type(2)").click() or True)
    script = "return arguments[0].naturalWidth"  # 0 until the image is loaded
    visitor.until(
        lambda: visitor.driver.execute_script(script, visitor.find("#curve img"))
    )
    tables = []
    for offset in ((-100, 20), (0, -60), (90, 40)):
        picture = visitor.find("#curve img")
        before = picture.get_attribute("src")
        actions = webdriver.ActionChains(visitor.driver)
        actions.move_to_element_with_offset(picture, *offset).click().perform()

        def has_changed(before=before):
            return visitor.find("#curve img").get_attribute("src") != before

        visitor.until(has_changed)
        tables.append(visitor.text("curve-table"))
    assert len(set(tables)) == 3
    box = visitor.find("#curve-queries textarea, #curve-queries input")
    box.send_keys(Keys.CONTROL + "a")
    box.send_keys("1, 2.5" + Keys.ENTER)
    visitor.wait_for("2.5", "curve-table")
    visitor.see(tmp_path / "curve.png")
    visitor.press("curve-save")
    visitor.wait_for("keras-meta learn", "curve-saved")
    visitor.see(tmp_path / "curve-saved.png")
    path = pathlib.Path(visitor.text("curve-saved").split()[2].rstrip("."))
    rows = learn(path)["predictions"]
    assert [row["x"] for row in rows] == [1, 2.5]
    lines = visitor.text("curve-table").splitlines()[1:]
    for line, row in zip(lines, rows, strict=True):
        _, mean, width = map(float, line.split())
        np.testing.assert_allclose(mean, row["mean"], atol=0.06 * 2 * row["scale"])
        np.testing.assert_allclose(width, 2 * row["scale"], rtol=0.06)

    visitor.choose("curve-entry", "sigma_maml.sinusoid")
    visitor.wait_for("It was trained on", "curve-notes")
    visitor.wait_for("Inner steps")
    visitor.unfold("curve-by-step")
    visitor.press("curve-compute")
    visitor.until(lambda: visitor.find("#curve-step-plot img"))
    visitor.see(tmp_path / "curve-steps.png")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    visitor.upload("points-file", tmp_path / "bad.csv")
    visitor.wait_for("expected bad.csv to begin with the line x,y, got a,b.")
    assert "2.5" in visitor.text("curve-table")
    assert visitor.hosts() == {"127.0.0.1"}
    assert not visitor.errors()


def test_a_port_in_use_is_rejected(server):
    port = server[0].rstrip("/").rpartition(":")[2]
    command = [sys.executable, "-m", "keras_meta", "app", "--port", port]
    process = subprocess.run([*command, "--no-browser"], capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr == (
        f"keras-meta: error: expected a free port, {port} cannot be used: name "
        "another.\n"
    )


def test_two_servers_that_start_together_use_different_ports(tmp_path):
    with serving(tmp_path / "one") as first, serving(tmp_path / "two") as second:
        assert read_address(first) != read_address(second)
