"Rows of files that others made: every form, every kind of damage, duplicates, and a hub that the test runs itself."

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from tracenb.core.records import Record, TracenbError, record
from tracenb.core.rows import SUFFIXES, RowCollector, RowsLeftOut, local_folder, read_bytes, read_rows

ROWS = [{'question': 'Who?', 'n': i, 'text': 'é\u2028{"[' + 'x' * i} for i in range(5)]


def lines(rows):
    return ''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in rows)


def columns(rows):
    return json.dumps({k: {str(i): r[k] for i, r in enumerate(rows)} for k in rows[0]}, ensure_ascii=False)


def read(path, data=None):
    "Rows and problems of a file."
    if data is not None:
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    collector = RowCollector(path)
    return [r for _, r in read_rows(path, collector)], [str(p) for p in collector.problems]


# --- forms

FORMS = {
    'lines': lines,
    'array': json.dumps,
    'indented array': lambda rows: json.dumps(rows, indent=2),
    'columns': columns,
    'indented columns': lambda rows: json.dumps(json.loads(columns(rows)), indent=1),
}


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('suffix', ['.json', '.jsonl', '.json.gz', '.jsonl.gz'])
def test_every_form_gives_the_same_rows(tmp_path, form, suffix):
    data = FORMS[form](ROWS).encode()
    assert read(tmp_path / f'a{suffix}', gzip.compress(data) if suffix.endswith('gz') else data) == (ROWS, [])


def test_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / 'a.parquet')
    assert read(tmp_path / 'a.parquet') == (ROWS, [])
    with pytest.raises(TracenbError, match='b.parquet: not a parquet file'):
        read(tmp_path / 'b.parquet', b'PAR1 not really')


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('around', [(b'\xef\xbb\xbf', b''), (b'\n\n', b'\n  \n'), (b'\xef\xbb\xbf\n', b'\r\n')])
def test_bom_and_blank_lines(tmp_path, form, around):
    assert read(tmp_path / 'a.json', around[0] + FORMS[form](ROWS).encode() + around[1]) == (ROWS, [])


def test_blank_lines_and_windows_line_ends_inside(tmp_path):
    assert read(tmp_path / 'a.jsonl', lines(ROWS).replace('\n', '\r\n\r\n \r\n')) == (ROWS, [])


@given(
    rows=st.lists(
        st.dictionaries(
            st.sampled_from('abc'),
            st.none() | st.integers() | st.text(max_size=9) | st.lists(st.text(max_size=3), max_size=2),
            min_size=1,
        ),
        min_size=2,
        max_size=5,
    )
)
def test_any_objects_survive_lines_and_arrays(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp('rows')
    for form in ('lines', 'array', 'indented array'):
        assert read(folder / 'a.json', FORMS[form](rows)) == (rows, [])


def test_columns_with_gaps_give_rows_without_the_missing_keys(tmp_path):
    assert read(tmp_path / 'a.json', json.dumps({'q': {'7': 'a', '9': 'b'}, 'x': {'9': 1}})) == (
        [{'q': 'a'}, {'q': 'b', 'x': 1}],
        [],
    )


def test_a_file_with_one_row_of_plain_values_is_a_row(tmp_path):
    assert read(tmp_path / 'a.json', json.dumps(ROWS[0])) == (ROWS[:1], [])


# --- what is wrong with a row or a file


def test_bad_lines_are_named_and_the_others_kept(tmp_path):
    text = lines(ROWS[:1]) + '{"question": \n' + '[1, 2]\n' + '"text"\n' + lines(ROWS[1:2])
    rows, problems = read(tmp_path / 'a.jsonl', text)
    assert rows == ROWS[:2]
    assert [p.split(': ')[0].removeprefix(f'{tmp_path}/') for p in problems] == ['a.jsonl:2', 'a.jsonl:3', 'a.jsonl:4']
    assert 'not JSON' in problems[0] and 'a JSON object is expected' in problems[1]


def test_an_array_names_the_bad_element(tmp_path):
    rows, problems = read(tmp_path / 'a.json', json.dumps([ROWS[0], 5, ROWS[1]]))
    assert rows == ROWS[:2] and 'a.json[1]: a JSON object is expected' in problems[0]


def test_bytes_that_are_not_text(tmp_path):
    rows, problems = read(
        tmp_path / 'a.jsonl', lines(ROWS[:1]).encode() + b'{"a": "\xff\xfe"}\n' + lines(ROWS[1:2]).encode()
    )
    assert rows == ROWS[:2] and 'a.jsonl:2: not JSON' in problems[0]


@pytest.mark.parametrize('name', ['a.txt', 'a.xlsx', 'a.gz', 'json'])
def test_unknown_kinds_of_file(tmp_path, name):
    with pytest.raises(TracenbError, match='files of this kind are not read'):
        read(tmp_path / name, 'x')


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_missing_files(tmp_path, suffix):
    with pytest.raises(TracenbError, match='no such file'):
        read(tmp_path / f'a{suffix}')


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-32', 'utf-16-be', 'utf-32-be'])
@pytest.mark.parametrize('form', FORMS)
def test_other_encodings_are_one_problem_with_the_conversion_command(tmp_path, encoding, form):
    rows, problems = read(
        tmp_path / 'a.json',
        ('' if encoding[-1].isdigit() else '\ufeff').encode(encoding) + FORMS[form](ROWS).encode(encoding),
    )
    name = encoding[:6].upper()
    assert (
        rows == []
        and len(problems) == 1
        and f'a.json: this text is {name}, not UTF-8' in problems[0]
        and f'iconv -f {name} -t UTF-8' in problems[0]
    )


ARRAYS = {
    'one line': json.dumps(ROWS),
    'indented': json.dumps(ROWS, indent=2),
    'one row per line': '[\n' + ',\n'.join(map(json.dumps, ROWS)) + '\n]\n',
}


@given(form=st.sampled_from(sorted(ARRAYS)), cut=st.integers(5, len(ARRAYS['one line']) - 1), packed=st.booleans())
def test_a_cut_array_gives_the_rows_before_the_cut_and_one_problem(tmp_path_factory, form, cut, packed):
    text = ARRAYS[form].rstrip()[:cut]
    rows, problems = read(tmp_path_factory.mktemp('cut') / 'a.json', gzip.compress(text.encode()) if packed else text)
    whole = sum(1 for k in range(1, 6) if len(_until(ARRAYS[form], k)) <= len(text))
    assert (
        rows == ROWS[:whole]
        and len(problems) == 1
        and f'a.json: the array breaks off after {whole} rows: not JSON' in problems[0]
    )


def _until(text, k):
    "The text up to the end of its `k`-th object."
    end = 0
    for _ in range(k):
        end = json.JSONDecoder().raw_decode(text, text.index('{', end))[1]
    return text[:end]


def test_other_breaks_of_arrays(tmp_path):
    one, two = map(json.dumps, ROWS[:2])
    for text, n in (
        (f'[{one}, {two},]', 2),
        (f'[{one} {two}]', 1),
        (f'[\n{one},\n{{"a": }},\n{two}]', 1),
        (f'[{one}, {{"a": "\xff"}}]'.encode('latin-1'), 1),
    ):
        rows, problems = read(tmp_path / 'a.json', text)
        assert rows == ROWS[:n] and len(problems) == 1 and f'breaks off after {n} rows' in problems[0]
    rows, problems = read(tmp_path / 'b.jsonl', '[INFO] begin\n' + lines(ROWS))
    assert (
        rows == ROWS and len(problems) == 1 and 'b.jsonl:1: not JSON' in problems[0]
    )  # not an array: lines, one of them bad


def test_places_count_leading_blank_lines(tmp_path):
    (tmp_path / 'a.jsonl').write_text('\n \n\r\n' + lines(ROWS[:1]) + '\nbad\n' + lines(ROWS[1:2]))
    collector = RowCollector('a')
    assert [p for p, _ in read_rows(tmp_path / 'a.jsonl', collector)] == [
        f'{tmp_path}/a.jsonl:4',
        f'{tmp_path}/a.jsonl:7',
    ] and 'a.jsonl:6: not JSON' in str(collector.problems[0])
    for text, place in (('\n\n{"a": 1}', 3), ('\n{\n"a": 1\n}\n', 2)):
        (tmp_path / 'b.json').write_text(text)
        assert list(read_rows(tmp_path / 'b.json', collector)) == [(f'{tmp_path}/b.json:{place}', {'a': 1})]


@pytest.mark.parametrize('depth', [99_999, 900])
def test_deep_nesting_is_a_problem_like_any_other(tmp_path, depth):
    deep = '[' * depth + ']' * depth
    rows, problems = read(tmp_path / 'a.jsonl', lines(ROWS[:1]) + deep + '\n' + lines(ROWS[1:2]))
    assert rows == ROWS[:2] and len(problems) == 1 and 'a.jsonl:2: ' in problems[0]
    rows, problems = read(tmp_path / 'b.json', f'[{json.dumps(ROWS[0])}, {deep}]')
    assert rows == ROWS[:1] and len(problems) == 1
    assert len(read(tmp_path / 'c.json', deep)[1]) == 1


def test_problems_can_be_written_whatever_they_quote():
    collector = RowCollector('s')
    collector.skip('the key \ud83d', 'not \udfff')
    assert (collector.problems[0].what, collector.problems[0].remedy) == ('the key \\ud83d', 'not \\udfff')


# --- gzip

MANY = [{'n': i, 'text': hashlib.sha256(str(i).encode()).hexdigest()} for i in range(300)]
PACKED = gzip.compress(lines(MANY).encode())


@given(cut=st.integers(1, len(PACKED) - 1))
def test_a_truncated_archive_gives_the_rows_before_the_cut(tmp_path_factory, cut):
    rows, problems = read(tmp_path_factory.mktemp('gz') / 'a.jsonl.gz', PACKED[:cut])
    assert rows == MANY[: len(rows)]
    assert 'the gzip archive is damaged' in problems[0] and len(problems) <= 2  # the second one: the line with the cut


@given(at=st.integers(20, len(PACKED) - 9), flip=st.integers(1, 255))
def test_damage_in_the_middle_is_never_silent(tmp_path_factory, at, flip):
    damaged = PACKED[:at] + bytes([PACKED[at] ^ flip]) + PACKED[at + 1 :]
    rows, problems = read(tmp_path_factory.mktemp('gz') / 'a.jsonl.gz', damaged)
    assert problems or rows == MANY


def test_damage_in_the_middle_keeps_the_rows_before_it(tmp_path):
    rows, problems = read(tmp_path / 'a.jsonl.gz', PACKED[:-2000] + bytes(40) + PACKED[-1960:])
    assert problems and rows[:50] == MANY[:50]


@pytest.mark.parametrize('zeros', [0, 512])
def test_an_archive_of_several_members(tmp_path, zeros):
    data = b''.join(gzip.compress(lines([r]).encode()) for r in ROWS) + bytes(zeros)
    assert read(tmp_path / 'a.jsonl.gz', data) == (ROWS, [])
    rows, problems = read(tmp_path / 'b.jsonl.gz', data[: len(data) - zeros - 12])
    assert rows[:4] == ROWS[:4] and 'damaged' in problems[0]


def test_archives_are_recognized_by_their_first_bytes(tmp_path):
    assert read(tmp_path / 'plain.jsonl.gz', lines(ROWS)) == (ROWS, [])
    assert read(tmp_path / 'packed.jsonl', gzip.compress(lines(ROWS).encode())) == (ROWS, [])
    assert read(tmp_path / 'empty.jsonl.gz', b'') == ([], [])
    assert 'the gzip archive is damaged after 0 bytes' in read(tmp_path / 'head.jsonl', b'\x1f\x8b')[1][0]
    assert read_bytes(tmp_path / 'plain.jsonl.gz', RowCollector('x')) == lines(ROWS).encode()


# --- the collector


@record
class Item(Record):
    id: str


def item(row):
    if row == 'bad':
        raise TracenbError('it is bad', 'fix it')
    return Item(id=row)


def test_collector_keeps_the_first_of_two_and_names_both_places():
    collector = RowCollector('s')
    for place, row in (('p1', 'a'), ('p2', 'bad'), ('p3', 'a'), ('p4', 'b')):
        collector.add(place, item, row)
    with pytest.warns(RowsLeftOut) as caught:
        assert collector.finish() == [Item(id='a'), Item(id='b')]
    assert len(caught) == 1 and (caught[0].message.kept, len(caught[0].message.problems)) == (2, 2)
    assert [p.what for p in caught[0].message.problems] == [
        'p2: it is bad',
        "p3: id 'a' was used before, at p1",
    ] and 's: 2 rows kept, 2 left out' in str(caught[0].message)


@given(rows=st.lists(st.sampled_from(['a', 'b', 'c', 'bad'])))
def test_nothing_is_lost_silently(rows):
    collector = RowCollector('s')
    for i, row in enumerate(rows):
        collector.add(f'p{i}', item, row)
    assert len(collector.kept) + len(collector.problems) == len(rows)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        if not collector.kept:
            with pytest.raises(TracenbError, match='s: no usable row'):
                collector.finish()
        else:
            assert [k.id for k in collector.finish()] == list(dict.fromkeys(r for r in rows if r != 'bad'))
    assert len(caught) == bool(collector.kept and collector.problems)


def test_an_empty_collector_is_an_error():
    with pytest.raises(TracenbError, match='the file is empty'):
        RowCollector('s').finish()


def test_other_errors_are_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        RowCollector('s').add('p', lambda row: 1 / 0, None)


def test_many_problems_are_counted_not_listed():
    collector = RowCollector('s')
    collector.add('p', item, 'a')
    for i in range(9):
        collector.skip(f'problem {i}')
    with pytest.warns(RowsLeftOut, match='and 4 more'):
        collector.finish()


# --- folders and hubs


def test_local_paths(tmp_path):
    assert local_folder(tmp_path) == tmp_path and local_folder(str(tmp_path)) == tmp_path
    for source in ('no/such/folder', '/no/such', 'nothing', './a/b'):
        with pytest.raises(TracenbError, match='no such file or folder'):
            local_folder(source)


FILES = {
    'v2.1/train-00000-of-00001.parquet': b'train ' * 500,
    'v2.1/validation-00000-of-00001.parquet': b'validation ' * 300,
    'v1.1/train.parquet': b'old',
    'README.md': b'# A data set\n',
}
SHA = 'a' * 40


@pytest.fixture
def hub():
    "The address of a small hub with the data set `people/questions`, and the list of requests to it."
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def answer(self, code, data=b'', head=False, **headers):
            self.send_response(code)
            for name, value in {'Content-Length': str(len(data)), **headers}.items():
                self.send_header(name.replace('_', '-'), value)
            self.end_headers()
            if not head:
                self.wfile.write(data)

        def do_GET(self, head=False):
            path = self.path.split('?')[0]
            if not head:
                asked.append(path)
            info = {
                'id': 'people/questions',
                '_id': '1',
                'sha': SHA,
                'private': False,
                'gated': False,
                'downloads': 0,
                'likes': 0,
                'tags': [],
                'siblings': [{'rfilename': f} for f in FILES],
            }
            tree = [
                {'type': 'file', 'path': f, 'size': len(d), 'oid': hashlib.sha1(d).hexdigest()}
                for f, d in FILES.items()
            ]
            file = path.removeprefix(f'/datasets/people/questions/resolve/{SHA}/')
            if path.startswith('/api/datasets/people/questions/tree/'):
                self.answer(200, json.dumps(tree).encode(), head, Content_Type='application/json')
            elif path.startswith('/api/datasets/people/questions'):
                self.answer(200, json.dumps(info).encode(), head, Content_Type='application/json')
            elif file in FILES:
                self.answer(
                    200, FILES[file], head, ETag=f'"{hashlib.sha1(FILES[file]).hexdigest()}"', X_Repo_Commit=SHA
                )
            else:
                self.answer(
                    404,
                    b'{"error": "Repository not found"}',
                    head,
                    X_Error_Code='RepoNotFound',
                    Content_Type='application/json',
                )

        def do_HEAD(self):
            self.do_GET(head=True)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}', asked
    server.shutdown()
    server.server_close()


FETCH = """
import sys
from tracenb.core.rows import local_folder
from tracenb.core.records import TracenbError
try:
    folder = local_folder(sys.argv[1], tuple(sys.argv[2:]))
    files = [p for p in sorted(folder.rglob('*.*')) if p.is_file()]
    print(*(f'{p.relative_to(folder)} {p.stat().st_size}' for p in files), sep='\\n')
except TracenbError as e: print(f'TracenbError: {e}')
"""


def fetch(home, endpoint, *args, **more):
    "Output of `local_folder` in a separate process with a fresh hub cache."
    env = {k: v for k, v in os.environ.items() if not k.startswith(('HF_', 'HUGGING')) and 'proxy' not in k.lower()}
    env |= {
        'HF_ENDPOINT': endpoint,
        'HF_HOME': str(home),
        'HF_HUB_DISABLE_TELEMETRY': '1',
        'HF_HUB_DISABLE_PROGRESS_BARS': '1',
        'HF_HUB_DISABLE_XET': '1',
        'PYTHONPATH': str(ROOT),
        **more,
    }
    made = subprocess.run(
        [sys.executable, '-c', FETCH, *args], env=env, capture_output=True, text=True, timeout=60, cwd=home
    )
    assert made.returncode == 0, made.stderr[-3000:]
    return made.stdout.strip()


def test_a_hub_data_set_is_fetched_once_and_only_what_is_needed(tmp_path, hub):
    endpoint, asked = hub
    wanted = 'v2.1/validation-00000-of-00001.parquet'
    assert fetch(tmp_path, endpoint, 'people/questions', 'v2.1/validation*.parquet') == f'{wanted} {len(FILES[wanted])}'
    files = [p for p in asked if '/resolve/' in p]
    assert files == [f'/datasets/people/questions/resolve/{SHA}/{wanted}']
    assert fetch(tmp_path, endpoint, 'people/questions', 'v2.1/validation*.parquet') == f'{wanted} {len(FILES[wanted])}'
    assert [p for p in asked if '/resolve/' in p] == files  # not fetched again
    assert (
        fetch(tmp_path, endpoint, 'people/questions', 'v2.1/validation*.parquet', HF_HUB_OFFLINE='1')
        == f'{wanted} {len(FILES[wanted])}'
    )  # nor requested, offline


def test_without_patterns_all_files_come(tmp_path, hub):
    assert fetch(tmp_path, hub[0], 'people/questions').splitlines() == sorted(f'{f} {len(d)}' for f, d in FILES.items())


def test_a_hub_id_that_is_not_there(tmp_path, hub):
    said = fetch(tmp_path, hub[0], 'people/nothing')
    assert (
        said.startswith('TracenbError: people/nothing: neither a path here nor a hub data set that can be fetched')
        and 'check the path or id and the network' in said
    )


@pytest.mark.parametrize('how', [{'HF_HUB_OFFLINE': '1'}, {}])
def test_without_a_network_the_error_names_the_remedy(tmp_path, how):
    said = fetch(tmp_path, 'http://127.0.0.1:9', 'people/questions', **how)  # no server listens there
    assert (
        said.startswith('TracenbError: people/questions: neither a path here nor')
        and 'download the files and name their folder' in said
    )
