"The doctor: what runs on this machine, with remedies and without secrets; and completion on Tab."

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tracenb.cli import doctor
from tracenb.cli.doctor import Finding, can_work, examine_machine, missing_packages
from tracenb.core.extras import EXTRAS

SECRETS = dict(HF_TOKEN='hf_never-print-this', TEACHER_API_KEY='sk-nor-this', ENDPOINT_API_KEY='sk-nor-that')
TRACENB = Path(sys.executable).parent / 'tracenb'


def test_doctor_says_one_line_each_and_no_secret(call, tmp_path, monkeypatch):
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    out, err = call('doctor', cwd=tmp_path)
    lines = out.strip().splitlines()
    assert [line[:2] in ('ok', '--', 'NO') for line in lines] == [True] * (11 + len(EXTRAS))
    for what in ('python', 'torch', 'CUDA', 'bitsandbytes', 'disk', 'memory', 'hub', 'extra vllm'):
        assert sum(line[4:].startswith(f'{what}:') for line in lines) == 1, what
    assert {'ok  hub token: present', 'ok  TEACHER_API_KEY: present', 'ok  ENDPOINT_API_KEY: present'} < set(lines)
    assert not any(secret in out + err for secret in SECRETS.values())
    assert '--  hub: HF_HUB_OFFLINE is set -> unset it to load models and data from the hub' in lines
    assert all(' -> ' in line for line in lines if line[:2] != 'ok')


def test_doctor_in_json_without_tokens(call, tmp_path, monkeypatch):
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    rows = {r['what']: r for r in json.loads(call('doctor', '--json', cwd=tmp_path)[0])}
    assert rows['TEACHER_API_KEY']['ok'] is False and 'export TEACHER_API_KEY' in rows['TEACHER_API_KEY']['remedy']
    assert rows['python']['said'] == '.'.join(map(str, sys.version_info[:3])) and rows['python']['needed'] is True


@pytest.mark.parametrize('least, what', [('LEAST_MEMORY', 'memory'), ('LEAST_DISK', 'disk')])
def test_what_the_main_job_needs_decides_the_exit_code(least, what, call, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, least, 1e9)
    out, _ = call('doctor', cwd=tmp_path, code=1)
    assert [line for line in out.splitlines() if line.startswith('NO')][0].startswith(f'NO  {what}: ')


def test_a_package_that_cannot_be_used_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'bitsandbytes', None)  # as if it were not installed
    findings = {f.what: f for f in examine_machine()}
    assert not findings['bitsandbytes'].ok and 'quantize: none' in findings['bitsandbytes'].remedy
    assert can_work(list(findings.values())) and not can_work([Finding(what='x', ok=False, said='', needed=True)])


def test_extras_are_those_of_the_package():
    assert missing_packages('teacher') == [] and missing_packages('no-such-extra') == []
    missing = missing_packages('vllm')
    assert missing == ['vllm'] or not missing


def test_completion_is_installed_and_completes(tmp_path):
    shell = os.environ | dict(HOME=str(tmp_path), SHELL='/bin/bash', _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION='1')
    done = subprocess.run([TRACENB, '--install-completion', 'bash'], env=shell, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '_TRACENB_COMPLETE' in (tmp_path / '.bash_completions' / 'tracenb.sh').read_text()
    asked = dict(_TRACENB_COMPLETE='complete_bash', COMP_WORDS='tracenb run demo-', COMP_CWORD='2')
    done = subprocess.run([TRACENB], env=shell | asked, capture_output=True, text=True)
    assert {'demo-gsm8k', 'demo-cotempqa'} <= set(done.stdout.split()), done.stderr
