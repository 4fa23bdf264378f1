# Copyright (c) mmcropr contributors.
"""The page of the demo, without and in a browser."""
import base64
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import app
import pytest
from mmengine.config import Config

from tests.utils import ROOT

BROWSER = shutil.which('chromium') or shutil.which('google-chrome')
needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec('gradio') is None,
    reason='needs gradio (requirements/optional.txt)')
# Tests that look at a picture may be kept: MMCROPR_SCREENSHOTS=DIR
SCREENSHOTS = os.environ.get('MMCROPR_SCREENSHOTS')


@pytest.fixture
def demo(trained):
    return app.Demo(dict(digits=(Config.fromfile(trained[0]), trained[1])))


@pytest.fixture
def image(digits):
    return str(sorted((digits / 'images/val').iterdir())[0])


def test_more_pruning_leaves_fewer_tokens(demo, image):
    left = []
    for tpr in (.3, .8):
        view, said = demo(image, 'digits', tpr)
        assert view.shape[2] == 3 and view.shape[1] > 1000
        left.append(int(re.match(r'(\d+) of 64 tokens left', said)[1]))
        assert re.search(r'\d+\.\d\d times as long', said)
    assert left[0] > left[1]


def test_bad_images(demo, tmp_path):
    (tmp_path / 'a.png').write_text('no image')
    for path, message in ((None, 'upload an image'),
                          (str(tmp_path / 'a.png'), 'cannot be read')):
        with pytest.raises(ValueError, match=message):
            demo(path, 'digits', .5)


def test_checkpoints_are_data(evil, image):
    config, checkpoint, made = evil
    models = dict(digits=(Config.fromfile(config), checkpoint))
    with pytest.raises(ValueError, match='holds more than data'):
        app.Demo(models)(image, 'digits', .5)
    assert not made.exists()
    app.Demo(models, trust=True)(image, 'digits', .5)
    assert made.exists()


def test_models_that_do_not_fit(trained):
    with pytest.raises(ValueError, match='no model to show'):
        app.Demo({})
    cfg = Config.fromfile(trained[0])
    cfg.model.backbone.reducer = None
    with pytest.raises(ValueError, match='plain has not one reducer'):
        app.Demo(dict(plain=(cfg, trained[1])))


def test_a_port_in_use():
    with socket.socket() as taken:
        taken.bind((app.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f'port {port} cannot be used'):
            app.check_port(port)
    with pytest.raises(ValueError, match='--port'):
        app.check_port(99999)


def test_without_gradio(monkeypatch, trained, capsys):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    monkeypatch.setattr(sys, 'argv', ['app.py', '--model', *trained])
    with pytest.raises(SystemExit):
        app.main()
    assert 'pip install gradio' in capsys.readouterr().err


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((app.HOST, 0))
        return probe.getsockname()[1]


def wait_for(url: str, seconds: float = 120) -> bytes:
    end = time.time() + seconds
    while True:
        try:
            return urllib.request.urlopen(url, timeout=5).read()
        except OSError:
            if time.time() > end:
                raise
            time.sleep(.3)


@contextmanager
def running(command: list):
    """A process that ends with the block, its children too."""
    env = dict(os.environ, PYTHONPATH=str(ROOT), no_proxy='127.0.0.1')
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True, env=env)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Tab:
    """A tab of Chromium, by its debugging protocol."""

    def __init__(self, port: int) -> None:
        from websockets.sync.client import connect
        tabs = json.loads(wait_for(f'http://127.0.0.1:{port}/json'))
        url = next(tab['webSocketDebuggerUrl'] for tab in tabs
                   if tab['type'] == 'page')
        self.socket, self.number = connect(url, max_size=None), 0

    def __call__(self, method: str, **params) -> dict:
        self.number += 1
        self.socket.send(json.dumps(
            dict(id=self.number, method=method, params=params)))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get('id') == self.number:
                assert 'error' not in answer, answer
                return answer['result']

    def value(self, code: str):
        return self('Runtime.evaluate', expression=code)['result'].get('value')

    def until(self, code: str, seconds: float = 90):
        end = time.time() + seconds
        while not (found := self.value(code)):
            assert time.time() < end, (
                code, self.value('document.body.innerText'))
            time.sleep(.2)
        return found

    def upload(self, path: str) -> None:
        root = self('DOM.getDocument')['root']['nodeId']
        node = self('DOM.querySelector', nodeId=root,
                    selector='#image input[type=file]')['nodeId']
        self('DOM.setFileInputFiles', nodeId=node, files=[path])


@needs_gradio
@pytest.mark.skipif(
    BROWSER is None or importlib.util.find_spec('websockets') is None,
    reason='no Chromium here, or no websockets to drive it')
def test_in_a_browser(trained, image, tmp_path):
    """Upload, run, see; then a file that is no image."""
    port, debugger = free_port(), free_port()
    (tmp_path / 'broken.png').write_text('no image')
    page = [sys.executable, ROOT / 'demo/app.py', '--port', port,
            '--model', *trained]
    browser = [
        BROWSER, '--headless=new', '--no-sandbox', '--disable-gpu',
        f'--remote-debugging-port={debugger}', '--window-size=1400,900',
        f'--user-data-dir={tmp_path / "profile"}', 'about:blank']
    with running(page):
        wait_for(f'http://127.0.0.1:{port}/')
        with running(browser):
            tab = Tab(debugger)
            tab('Page.navigate', url=f'http://127.0.0.1:{port}/')
            tab.until("!!document.querySelector('#image input[type=file]') "
                      "&& !!document.querySelector('#run')")
            tab.upload(image)
            name = os.path.basename(image)[:6]
            tab.until(f"document.querySelector('#image').innerText"
                      f".includes('{name}')")
            tab.value("document.querySelector('#run').click()")
            said = tab.until("document.querySelector('#said textarea').value")
            assert 'tokens left' in said
            assert tab.until("document.querySelector('#view img')"
                             '.naturalWidth') > 1000
            if SCREENSHOTS:
                time.sleep(1)
                data = tab('Page.captureScreenshot')['data']
                with open(os.path.join(SCREENSHOTS, 'app.png'), 'wb') as file:
                    file.write(base64.b64decode(data))
            tab.value("document.querySelector('#image [aria-label*=Clear], "
                      "#image [aria-label*=Remove]').click()")
            tab.until("!!document.querySelector('#image input[type=file]')")
            tab.upload(str(tmp_path / 'broken.png'))
            tab.until("document.querySelector('#image').innerText"
                      ".includes('broken')")
            tab.value("document.querySelector('#run').click()")
            tab.until("document.body.innerText.includes("
                      "'cannot be read as an image')")
