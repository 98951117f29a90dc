"""A small hub on this machine: what huggingface_hub asks to make, fill and read repositories.

Repositories live in memory. Files of the suffix `.safetensors` go through LFS, as there.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import yaml

TOKENS = {'hf_write': ('ann', 'write'), 'hf_read': ('ann', 'read')}
HUB_ID = re.compile(r'[\w.-]+/[\w.-]+')


class Repo:
    "Commits, each a dictionary of path -> bytes."

    def __init__(self, private):
        self.private = private
        self.commits = [('0' * 39 + '1', {'.gitattributes': b'*.safetensors filter=lfs\n'})]

    @property
    def head(self):
        return self.commits[-1]

    def commit(self, revision):
        "(sha, files) of a branch or commit, None if there is none; there is one branch."
        return self.head if revision == 'main' else next((c for c in self.commits if c[0] == revision), None)

    def at(self, revision):
        return (self.commit(revision) or self.head)[1]


def problems(card, kind):
    "What the hub finds wrong with the head of a README."
    found = re.match(r'---\n(.*?)\n---\n', card, re.S)
    data = yaml.safe_load(found[1]) if found else None
    if not isinstance(data, dict):
        return ['no metadata']
    wrong = []
    bases = data.get('base_model', [])
    wrong += [
        f'"base_model" with value "{b}" is not valid'
        for b in ([bases] if isinstance(bases, str) else bases)
        if not HUB_ID.fullmatch(b)
    ]
    for entry in data.get('model-index', []) if kind == 'model' else []:
        for k, result in enumerate(entry.get('results', [])):
            if not isinstance(entry.get('name'), str) or not result.get('task', {}).get('type'):
                wrong.append(f'"model-index[0].results[{k}]" needs a name and a task')
            if not all(isinstance(result.get('dataset', {}).get(key), str) for key in ('type', 'name')):
                wrong.append(f'"model-index[0].results[{k}].dataset" needs type and name')
            if not all(m.get('type') and 'value' in m for m in result.get('metrics', [{}])):
                wrong.append(f'"model-index[0].results[{k}].metrics" need type and value')
    return wrong


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def answer(self, value=None, status=200, body=None, **headers):
        body = json.dumps(value).encode() if body is None else body
        self.send_response(status)
        self.send_header('Content-Length', str(len(body)))
        for name, text in headers.items():
            self.send_header(name.replace('_', '-'), text)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def refuse(self, status, message, code=''):
        more = {'X-Error-Code': code} if code else {}
        self.answer(dict(error=message), status, **more, **{'X-Error-Message': message})

    @property
    def user(self):
        token = self.headers.get('Authorization', '').removeprefix('Bearer ')
        return TOKENS.get(token)

    def find(self, kind, repo):
        "The repository, None (and an answer) if this user cannot see it."
        found = self.server.repos.get((kind, repo))
        if found is None or found.private and (not self.user or self.user[0] != repo.split('/')[0]):
            return self.refuse(404, 'Repository not found', 'RepoNotFound')
        return found

    def handle_any(self):
        path = unquote(urlparse(self.path).path)
        length = int(self.headers.get('Content-Length') or 0)
        self.body = self.rfile.read(length) if length else b''
        self.server.asked.append(f'{self.command} {path}')
        for pattern, fault in self.server.faults.items():
            if re.search(pattern, f'{self.command} {path}'):
                status, headers = fault if isinstance(fault, tuple) else (fault, {})
                return self.answer(dict(error=f'fault {status}'), status, **headers)
        for pattern, call in ROUTES:
            if found := re.fullmatch(pattern, f'{self.command} {path}'):
                return call(self, **found.groupdict())
        self.refuse(404, f'no route: {path}')

    do_GET = do_POST = do_PUT = do_HEAD = handle_any


def whoami(self):
    if not self.user:
        return self.refuse(401, 'Invalid username or password.')
    name, role = self.user
    self.answer(
        dict(
            type='user',
            name=name,
            auth=dict(type='access_token', accessToken=dict(displayName=f'{role} token', role=role)),
        )
    )


def create(self):
    asked = json.loads(self.body)
    if not self.user:
        return self.refuse(401, 'Invalid username or password.')
    owner = asked.get('organization') or self.user[0]
    if owner != self.user[0] or self.user[1] != 'write':
        return self.refuse(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
    kind, repo = asked.get('type', 'model'), f'{owner}/{asked["name"]}'
    if (kind, repo) in self.server.repos:
        return self.refuse(409, 'You already created this repo')
    self.server.repos[kind, repo] = Repo(asked.get('visibility') == 'private' or bool(asked.get('private')))
    prefix = 'datasets/' if kind == 'dataset' else ''
    self.answer(dict(url=f'{self.server.url}/{prefix}{repo}', name=repo, id='1'))


def info(self, kind, repo, revision='main'):
    if found := self.find(kind, repo):
        if not found.commit(revision or 'main'):
            return self.refuse(404, 'Revision not found', 'RevisionNotFound')
        sha, files = found.commit(revision or 'main')
        self.answer(
            dict(
                id=repo,
                sha=sha,
                private=found.private,
                siblings=[dict(rfilename=f) for f in files],
                tags=[],
                downloads=0,
                likes=0,
            )
        )


def tree(self, kind, repo, revision):
    if found := self.find(kind, repo):
        self.answer([_entry(name, data) for name, data in found.at(revision).items()])


def _is_lfs(name):
    return name.endswith('.safetensors')


def _entry(name, data):
    blob = hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()
    lfs = dict(lfs=dict(oid=hashlib.sha256(data).hexdigest(), size=len(data), pointerSize=130)) if _is_lfs(name) else {}
    return dict(type='file', oid=blob, size=len(data), path=name) | lfs


def validate(self):
    asked = json.loads(self.body)
    wrong = [dict(message=m) for m in problems(asked['content'], asked['repoType'])]
    self.answer(dict(errors=wrong, warnings=[]), 400 if wrong else 200)


def preupload(self, kind, repo, revision):
    if self.find(kind, repo):
        names = [f['path'] for f in json.loads(self.body)['files']]
        modes = [dict(path=n, uploadMode='lfs' if _is_lfs(n) else 'regular', shouldIgnore=False) for n in names]
        self.answer(dict(files=modes))


def batch(self, prefix, repo):
    objects = []
    for o in json.loads(self.body)['objects']:
        href = f'{self.server.url}/lfs/{o["oid"]}'
        actions = {} if o['oid'] in self.server.lfs else dict(actions=dict(upload=dict(href=href, header={})))
        objects.append(dict(oid=o['oid'], size=o['size']) | actions)
    self.answer(dict(transfer='basic', objects=objects))


def store(self, oid):
    if hashlib.sha256(self.body).hexdigest() != oid:
        return self.refuse(400, 'wrong checksum')
    self.server.lfs[oid] = self.body
    self.answer({})


def commit(self, kind, repo, revision):
    found = self.find(kind, repo)
    if not found:
        return
    if self.user[1] != 'write':
        return self.refuse(403, 'Forbidden: pass a token with write permission')
    files, head = dict(found.head[1]), {}
    for line in self.body.splitlines():
        entry = json.loads(line)
        value = entry['value']
        match entry['key']:
            case 'header':
                head = value
            case 'file':
                files[value['path']] = base64.b64decode(value['content'])
            case 'lfsFile':
                files[value['path']] = self.server.lfs[value['oid']]
            case 'deletedFile':
                del files[value['path']]
    if head.get('parentCommit', found.head[0]) != found.head[0]:
        return self.refuse(412, 'A commit has happened since. Please refresh and try again.')
    sha = hashlib.sha1(self.body).hexdigest()
    found.commits.append((sha, files))
    self.answer(
        dict(success=True, commitOid=sha, commitUrl=f'{self.server.url}/{repo}/commit/{sha}', pullRequestUrl=None)
    )


def resolve(self, prefix, repo, revision, name):
    found = self.find('dataset' if prefix else 'model', repo)
    if not found:
        return
    if not found.commit(revision):
        return self.refuse(404, 'Revision not found', 'RevisionNotFound')
    sha, files = found.commit(revision)
    if name not in files:
        return self.refuse(404, 'Entry not found', 'EntryNotFound')
    entry = _entry(name, files[name])
    etag = entry.get('lfs', entry)['oid']
    self.answer(body=files[name], ETag=f'"{etag}"', X_Repo_Commit=sha)


_REPO = r'(?P<repo>[^/]+/[^/]+)'
_KIND = r'/api/(?P<kind>model|dataset)s/'
ROUTES = (
    ('GET /api/whoami-v2', whoami),
    ('POST /api/repos/create', create),
    ('POST /api/validate-yaml', validate),
    (rf'(GET|HEAD) {_KIND}{_REPO}(/revision/(?P<revision>[^/]+))?', info),
    (rf'GET {_KIND}{_REPO}/tree/(?P<revision>[^/]+)', tree),
    (rf'POST {_KIND}{_REPO}/preupload/(?P<revision>[^/]+)', preupload),
    (rf'POST {_KIND}{_REPO}/commit/(?P<revision>[^/]+)', commit),
    (rf'POST /(?P<prefix>datasets/)?{_REPO}\.git/info/lfs/objects/batch', batch),
    ('PUT /lfs/(?P<oid>[0-9a-f]{64})', store),
    (rf'(GET|HEAD) /(?P<prefix>datasets/)?{_REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)', resolve),
)


@contextmanager
def hub_server():
    "The server, running: `url`, `repos`, `asked`, `faults` (pattern of a request -> status, or (status, headers))."
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    server.repos, server.lfs, server.asked, server.faults = {}, {}, [], {}
    server.url = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.05), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
