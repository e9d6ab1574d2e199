# SPDX-License-Identifier: Apache-2.0
"""The 3D view in a real browser, beside our own pictures of the same files from the same cameras."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from dreamlab.core.cameras import orbit
from dreamlab.core.types import Mesh
from dreamlab.export.glb import gltf_of
from dreamlab.export.product import Product
from dreamlab.export.splats.khr import splat_glb_bytes
from renderers.light.environment import directions, environment
from renderers.surface.draw import Surface, look
from tests.export.test_glb import ball
from tests.export.test_motion import wave
from tests.export.test_splats import picture, psnr, shown
from tests.export.test_three import lopsided
from tests.export.viewer import Glb
from tests.studio.chromium import chromium, served

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "dreamlab" / "studio" / "static" / "viewer.js"
SIZE = 160
WINDOW = {"width": 500, "height": 400}
OURS = {"azimuth": 30.0, "elevation": 15.0, "distance": 3.2, "fovy": 42.0}
MOMENT = 0.7  # seconds
PAGE = f"""<!doctype html><meta charset=utf-8><link rel=icon href=data:,><style>body {{ margin: 0 }}
.view {{ width: {SIZE}px; height: {SIZE}px }} #tall {{ height: 3000px }}</style>
<div class=view id=a></div><div class=view id=b></div><div id=tall></div>
<script type=module>
import {{ Viewer, radiance }} from '/viewer.js';
Object.assign(window, {{ Viewer, radiance }});
window.a = new Viewer(document.getElementById('a'), {{ label: 'Left' }});
window.b = new Viewer(document.getElementById('b'));
</script>"""


def halves() -> Mesh:
    """Red on the left of one who looks from the front, blue on the right, and not alike from any two sides."""
    mesh = lopsided(ball(3))
    side = mesh.vertices[:, :1] < 0.1
    return replace(mesh, colours=torch.where(side, torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.8])))


def others() -> dict[str, bytes]:
    """The same mesh as another program writes it."""
    mesh = trimesh.Trimesh(halves().vertices.numpy(), halves().faces.numpy(), process=False)
    made = {f"mesh.{kind}": mesh.export(file_type=kind) for kind in ("obj", "ply", "stl")}
    return {name: data.encode() if isinstance(data, str) else data for name, data in made.items()}


FILES = {
    **others(),
    "mesh.glb": gltf_of(Product("thing", halves())).glb(),
    "large.glb": gltf_of(Product("thing", replace(halves(), vertices=30 * halves().vertices + 5))).glb(),
    "moving.glb": gltf_of(Product("thing", halves(), wave(halves()))).glb(),
    "splats.glb": splat_glb_bytes(shown(), "thing", {}),
    "broken.glb": b"glTF" + bytes(60),
    "other.glb": b"a text, and not even a short one",
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("viewer")
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    (folder / "viewer.js").write_bytes(BUNDLE.read_bytes())
    (folder / "index.html").write_text(PAGE)
    with served(folder) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


class Page:
    """The page in the browser, and what went wrong in it."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.errors: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(120_000)  # drawing in software on a busy machine
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(address)
        page.wait_for_function("window.b")

    def __call__(self, script: str, argument: object = None) -> Any:
        return self.page.evaluate(script, argument)

    def load(self, name: str, view: str = "a", **options: Any) -> Any:
        return self(f"([url, options]) => {view}.load(url, options)", [f"/{name}", options])

    def pixels(self, view: str = "a") -> Tensor:
        """[H, W, 4] in [0, 1], colours not multiplied by alpha."""
        found = self(f"() => {{ const p = {view}.pixels(); return [p.width, p.height, Array.from(p.data)]; }}")
        wide, high, data = found
        return torch.tensor(data, dtype=torch.float32).view(high, wide, 4) / 255

    def over_white(self, view: str = "a") -> Tensor:
        rgba = self.pixels(view)
        return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]

    def as_ours(self, **changes: float) -> None:
        self("view => a.camera({ exact: true, ...view })", OURS | changes)

    def camera(self, view: str = "a") -> dict[str, Any]:
        found: dict[str, Any] = self(f"() => {view}.camera()")
        return found

    def drawn(self) -> int:
        return int(self("() => document.getElementById('a').dataset.viewDrawn ?? 0"))

    def still(self) -> None:
        """Waits until a movement has faded."""
        last = -1
        while last != (last := self.drawn()):
            self.page.wait_for_timeout(250)

    def state(self) -> str:
        return str(self("() => document.getElementById('a').dataset.viewState"))


@pytest.fixture(scope="module")
def opened(browser: Any, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport=WINDOW)
    yield Page(context.new_page(), address)
    context.close()


def checked(page: Page) -> None:
    assert not page.errors
    # No other host is asked for anything.
    assert all(url.startswith((page.address, "data:", "blob:")) for url in page.asked)


@pytest.fixture
def page(opened: Page) -> Iterator[Page]:
    """The page of several tests: shaders take a while."""
    opened("() => { a.unsync(); a.wire(false); }")
    yield opened
    checked(opened)


@pytest.fixture
def fresh(browser: Any, address: str) -> Iterator[Page]:
    """A page that nobody has touched."""
    context = browser.new_context(viewport=WINDOW, has_touch=True)
    found = Page(context.new_page(), address)
    yield found
    context.close()
    checked(found)


def cameras(**changes: float) -> Any:
    wanted = OURS | changes
    return orbit([wanted["azimuth"]], wanted["elevation"], wanted["distance"], wanted["fovy"])


def our_alpha(name: str, seconds: float | None = None, **changes: float) -> Tensor:
    """[H, W] of the file's surface as we draw it."""
    glb = Glb(FILES[name])
    surface = Surface.of(torch.from_numpy(glb.points(seconds)).float(), torch.from_numpy(glb.faces))
    view = look(surface, cameras(**changes), SIZE)
    return view.over(torch.ones(len(view.hit), 1), torch.zeros(1, 1))[0, ..., 0]


def iou(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum() / (one | other).sum())


def body(page: Page) -> Tensor:
    """[H, W] where the object is: what the floor's shadow covers is black, and never as dense."""
    rgba = page.pixels()
    return (rgba[..., 3] > 0.5) & (rgba[..., :3].amax(-1) > 0.05)


@pytest.mark.node
def test_the_bundle_is_what_its_source_builds(tmp_path: Path) -> None:
    packages = Path(os.environ.get("DREAMLAB_THREE", ""))
    if shutil.which("node") is None or not (packages / "three").is_dir() or not (packages / "esbuild").is_dir():
        pytest.skip("needs Node.js and the npm packages three and esbuild (DREAMLAB_THREE names their node_modules)")
    subprocess.run(["node", ROOT / "tools" / "viewer" / "build.mjs", tmp_path / "viewer.js"], check=True)
    assert (tmp_path / "viewer.js").read_bytes() == BUNDLE.read_bytes()


@pytest.mark.browser
def test_a_mesh_stands_where_we_draw_it_with_its_colours_on_their_sides(page: Page) -> None:
    assert page.load("mesh.glb")["kind"] == "mesh"
    page.as_ours()
    assert iou(body(page), our_alpha("mesh.glb") > 0.5) > 0.97
    page.as_ours(azimuth=0.0)
    seen, there = page.pixels(), body(page)
    left, right = there[:, :70].nonzero(), there[:, 95:].nonzero() + torch.tensor([0, 95])
    for places, strong, weak in ((left, 0, 2), (right, 2, 0)):
        colours = seen[places[:, 0], places[:, 1]]
        assert len(colours) > 500 and (colours[:, strong] > 1.5 * colours[:, weak]).all()


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["obj", "ply", "stl"])
def test_meshes_of_other_kinds_stand_where_we_draw_them(page: Page, kind: str) -> None:
    assert page.load(f"mesh.{kind}")["kind"] == "mesh"
    page.as_ours()
    assert iou(body(page), our_alpha("mesh.glb") > 0.5) > 0.97


@pytest.mark.browser
def test_gaussians_have_the_colours_that_our_renderer_gives_them(page: Page) -> None:
    assert page.load("splats.glb") == {"kind": "splat", "duration": 0, "triangles": 0, "gaussians": 1500}
    page.as_ours()
    plain = replace(shown(), compensated=False)
    ours = picture(plain, cameras(), SIZE)[0]
    black = torch.zeros_like(plain.harmonics)
    black[:, 0] = -0.5 / 0.28209479177387814
    inside = picture(replace(plain, harmonics=black), cameras(), SIZE)[0, ..., 0] < 0.02  # nothing of the white is left
    assert inside.sum() > 2500
    assert psnr(page.over_white()[inside], ours[inside]) > 32
    assert psnr(page.over_white()[inside], ours.flip(1)[inside]) < 20  # which a mirrored one would not be


@pytest.mark.browser
def test_a_clip_stands_still_at_a_time_as_we_pose_it_and_plays(page: Page) -> None:
    assert page.load("moving.glb")["kind"] == "animation" and page("() => a.playing")
    page.as_ours()
    length = page("() => a.duration")
    assert length == pytest.approx(Glb(FILES["moving.glb"]).lasts)
    for seconds in (0.0, MOMENT):
        page("seconds => a.time(seconds)", seconds)
        assert iou(body(page), our_alpha("moving.glb", seconds) > 0.5) > 0.96
    assert iou(our_alpha("moving.glb", 0.0) > 0.5, our_alpha("moving.glb", MOMENT) > 0.5) < 0.9
    page.still()
    still = page.drawn()
    page.page.wait_for_timeout(400)
    assert page.drawn() == still and page("() => a.time()") == MOMENT  # nothing moves: nothing is drawn
    page("() => a.play()")
    page.page.wait_for_function("a.time() !== 0.7 && a.time() > 0")
    assert page.drawn() > still


@pytest.mark.browser
def test_the_camera_stays_when_the_file_changes_unless_told(page: Page) -> None:
    page.load("mesh.glb")
    page("() => a.camera({ azimuth: 70, elevation: 40, distance: 3 })")
    before, position = page.camera(), page.pixels()
    page.load("mesh.glb")
    assert page.camera()["azimuth"] == pytest.approx(70) and psnr(page.pixels(), position) > 50
    page.load("splats.glb")
    assert page.camera()["azimuth"] == pytest.approx(before["azimuth"])
    page.load("mesh.glb", keepCamera=False)
    assert page.camera()["azimuth"] == pytest.approx(25)


@pytest.mark.browser
def test_the_same_asset_at_another_size_and_place_is_seen_as_before(page: Page) -> None:
    page.load("mesh.glb", keepCamera=False)
    page("() => a.camera({ azimuth: 70, elevation: 40 })")
    before, view = body(page), page.camera()
    page.load("large.glb")
    assert page.camera()["azimuth"] == pytest.approx(view["azimuth"]) and iou(body(page), before) > 0.98


@pytest.mark.browser
def test_views_that_are_joined_turn_together_and_can_be_parted(page: Page) -> None:
    page.load("mesh.glb")
    page.load("splats.glb", "b")
    page("() => { window.part = a.sync(b); a.camera({ azimuth: 100 }); }")
    assert page.camera("b")["azimuth"] == pytest.approx(100)
    assert page.camera("b")["distance"] == pytest.approx(page.camera("a")["distance"])
    page("() => b.camera({ elevation: 50 })")
    assert page.camera("a")["elevation"] == pytest.approx(50)
    page("() => { part(); a.camera({ azimuth: 10 }); }")
    assert page.camera("b")["azimuth"] == pytest.approx(100)


@pytest.mark.browser
def test_mouse_touch_and_keys_turn_zoom_and_slide(fresh: Page) -> None:
    fresh.load("mesh.glb")
    mouse, keys, middle = fresh.page.mouse, fresh.page.keyboard, SIZE / 2
    mouse.move(middle, middle)
    mouse.wheel(0, 200)  # the page's, for nobody has touched the view
    fresh.page.wait_for_function("scrollY > 0")
    fresh("() => scrollTo(0, 0)")
    begun = fresh.camera()
    mouse.down()
    mouse.move(middle - 30, middle, steps=4)
    mouse.up()
    fresh.still()
    turned = fresh.camera()
    assert turned["azimuth"] > begun["azimuth"] + 10 and turned["distance"] == pytest.approx(begun["distance"])
    mouse.wheel(0, 200)  # the view's, for it has the focus now
    fresh.still()
    assert fresh.camera()["distance"] > 1.02 * turned["distance"] and fresh("() => scrollY") == 0
    for key, name, change in (("ArrowRight", "azimuth", 10), ("ArrowUp", "elevation", 10)):
        before = fresh.camera()
        keys.press(key)
        assert fresh.camera()[name] == pytest.approx(before[name] + change)
    keys.press("Shift+ArrowRight")
    assert np.abs(fresh.camera()["target"]).max() > 0.05
    keys.press("f")
    assert fresh.camera()["azimuth"] == pytest.approx(25) and np.abs(fresh.camera()["target"]).max() < 1e-6
    finger = fresh.page.context.new_cdp_session(fresh.page)
    finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": middle, "y": middle}]})
    for x in (middle + 15, middle + 30, middle + 45):
        finger.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x, "y": middle}]})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    fresh.still()
    assert fresh.camera()["azimuth"] < 15


@pytest.mark.browser
def test_the_view_can_be_reached_by_keyboard_and_says_what_it_is(fresh: Page) -> None:
    fresh.page.keyboard.press("Tab")
    assert fresh("() => document.activeElement === document.querySelector('#a canvas')")
    assert str(fresh("() => document.activeElement.getAttribute('aria-label')")).startswith("Left. Arrow keys turn")


@pytest.mark.browser
def test_edges_are_drawn_over_the_surface_when_asked(page: Page) -> None:
    page.load("mesh.glb")
    plain = page.pixels()
    page("() => a.wire(true)")
    wired = page.pixels()
    there = plain[..., 3] > 0.99
    assert float((plain - wired)[there].abs().amax(-1).gt(0.1).float().mean()) > 0.1
    page("() => a.wire(false)")
    assert psnr(page.pixels(), plain) > 50


@pytest.mark.browser
def test_a_file_that_cannot_be_shown_is_said_and_leaves_the_last_one(page: Page) -> None:
    page.load("mesh.glb")
    before = page.pixels()
    said = (
        "() => { const e = document.querySelector('#a [role=status]'); return e.checkVisibility() ? e.innerText : ''; }"
    )
    wrong = {
        "gone.glb": "the file is not there",
        "broken.glb": "the file is damaged",
        "other.glb": "it is not a GLB, PLY, STL or OBJ file",
    }
    for name, words in wrong.items():
        with pytest.raises(Exception, match=words):
            page.load(name)
        assert page.state() == "error" and words in page(said) and "Try again" in page(said)
        assert psnr(page.pixels(), before) > 50
    page.load("splats.glb")
    assert page.state() == "shown" and page(said) == ""


@pytest.mark.browser
def test_a_file_that_was_overtaken_is_not_shown(page: Page) -> None:
    found = page("() => Promise.all([a.load('/splats.glb'), a.load('/mesh.glb')])")
    assert found[0] is None and found[1]["kind"] == "mesh" and page("() => a.kind") == "mesh"


@pytest.mark.browser
def test_a_lost_context_leaves_the_picture_and_comes_back(browser: Any, address: str) -> None:
    context = browser.new_context(viewport=WINDOW)
    raw = context.new_page()
    raw.add_init_script(
        """window.made = []; const get = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
          const found = get.call(this, kind, ...rest); if (kind === 'webgl2') made.push(found); return found; };"""
    )
    page = Page(raw, address)
    page.load("mesh.glb")
    page.load("splats.glb", "b")
    page.as_ours()
    before = page.pixels()
    page("() => { for (const each of made) each.getExtension('WEBGL_lose_context').loseContext(); }")
    page.page.wait_for_function("document.getElementById('a').dataset.viewState === 'lost'")
    kept = page("() => document.querySelector('#a canvas').getContext('2d').getImageData(80, 80, 1, 1).data[3]")
    assert kept == 255
    page.page.wait_for_function("document.getElementById('a').dataset.viewState === 'shown'")
    page.page.wait_for_function("document.getElementById('b').dataset.viewState === 'shown'")
    assert psnr(page.pixels(), before) > 40
    assert page.pixels("b")[..., 3].gt(0.9).float().mean() > 0.1
    context.close()


@pytest.mark.browser
def test_a_browser_without_webgl_says_so(browser: Any, address: str) -> None:
    context = browser.new_context()
    raw = context.new_page()
    raw.add_init_script(
        """const get = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
          return kind.startsWith('webgl') ? null : get.call(this, kind, ...rest); };"""
    )
    page = Page(raw, address)
    with pytest.raises(Exception, match="no WebGL 2"):
        page.load("mesh.glb")
    assert "no WebGL 2" in page("() => document.querySelector('#a [role=status]').innerText")
    context.close()


@pytest.mark.browser
def test_a_view_that_is_left_leaves_nothing(page: Page) -> None:
    page(
        """async () => { window.c = document.createElement('div'); c.className = 'view'; document.body.prepend(c);
        const view = new Viewer(c); await view.load('/moving.glb'); view.dispose(); c.remove(); }"""
    )
    assert page("() => c.children.length") == 0
    drawn = page("() => c.dataset.viewDrawn")
    page.page.wait_for_timeout(200)
    assert page("() => c.dataset.viewDrawn") == drawn


@pytest.mark.browser
def test_the_light_is_the_engine_s_studio(page: Page) -> None:
    ours, towards = environment("studio"), directions(64, 128)
    rows, columns = torch.arange(1, 64, 5), torch.arange(2, 128, 9)
    some = towards[rows][:, columns].reshape(-1, 3)
    theirs = torch.tensor(page("all => all.map((d) => radiance(d))", some.tolist()))
    torch.testing.assert_close(theirs, ours[rows][:, columns].reshape(-1, 3), atol=2e-3, rtol=1e-3)


@pytest.mark.browser
def test_the_floor_is_darker_under_the_object_than_beside_it(page: Page) -> None:
    page.load("mesh.glb")
    page("() => a.camera({ elevation: 60 })")
    rgba = page.pixels()
    shade = (rgba[..., :3].amax(-1) < 0.02) & (rgba[..., 3] > 0.03) & (rgba[..., 3] < 0.9)
    assert shade.float().mean() > 0.02
    assert rgba[:3, :, 3].max() < 0.02  # and nothing at the picture's edge
