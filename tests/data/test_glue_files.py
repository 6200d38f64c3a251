"""Small files in each task's official format, and everything that can be wrong with one."""

import pytest

from fedtt_lightning.data.glue_files import TASKS, find_task_folder, read_split, task_name
from fedtt_lightning.errors import ConfigError

MNLI_HEAD = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label"
)
MRPC_HEAD = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"

# Task, file, its text, and the columns that must come out.
FORMATS = [
    (
        "cola",
        "dev.tsv",
        'gj04\t1\t\tThe "sailors rode.\ngj04\t0\t*\tRode sailors the.\n',
        {"text": ['The "sailors rode.', "Rode sailors the."], "label": [1, 0]},
    ),
    (
        "sst2",
        "train.tsv",
        'sentence\tlabel\nhide new\u0085 secretions \t0\r\na "fine\u2028 film\t1\n',
        {"text": ["hide new\u0085 secretions ", 'a "fine\u2028 film'], "label": [0, 1]},
    ),
    (
        "mrpc",
        "train.tsv",
        f"{MRPC_HEAD}\r\n1\t70\t71\tHe said so .\tSo he said .\r\n",
        {"text": ["He said so ."], "text_pair": ["So he said ."], "label": [1]},
    ),
    (
        "qqp",
        "train.tsv",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n9\t1\t2\tWhy?\tWhat for?\t1\n",
        {"text": ["Why?"], "text_pair": ["What for?"], "label": [1]},
    ),
    (
        "stsb",
        "dev.tsv",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tmain\tMSR\t2012\t1\tnone\tnone\tA man.\tA woman.\t2.800\n",
        {"text": ["A man."], "text_pair": ["A woman."], "label": [2.8]},
    ),
    (
        "mnli",
        "train.tsv",
        f"{MNLI_HEAD}\n0\t1\t1n\tfiction\t(\t(\t(\t(\tOne.\tTwo.\tneutral\tneutral\n",
        {"text": ["One."], "text_pair": ["Two."], "genre": ["fiction"], "label": [1]},
    ),
    (
        "qnli",
        "dev.tsv",
        "index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tnot_entailment\n",
        {"text": ["Who?"], "text_pair": ["He."], "label": [1]},
    ),
    (
        "rte",
        "train.tsv",
        "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n",
        {"text": ["A."], "text_pair": ["B."], "label": [0]},
    ),
    (
        "wnli",
        "dev.tsv",
        "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t1\n",
        {"text": ["A."], "text_pair": ["B."], "label": [1]},
    ),
]


def write(folder, name, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode())
    return folder


def test_every_task_has_a_format_here():
    assert {task for task, *_ in FORMATS} == set(TASKS)


@pytest.mark.parametrize(("task", "name", "text", "columns"), FORMATS)
def test_the_official_formats(tmp_path, task, name, text, columns):
    folder = write(tmp_path / TASKS[task].folder, name, text)
    assert read_split(folder, task, name.removesuffix(".tsv")) == columns


def test_mnli_has_two_dev_sets(tmp_path):
    row = "\n0\t1\t1n\tfiction\t(\t(\t(\t(\t{}\tTwo.\tx\tcontradiction\n"
    write(tmp_path, "dev_matched.tsv", MNLI_HEAD + row.format("in"))
    write(tmp_path, "dev_mismatched.tsv", MNLI_HEAD + row.format("out"))
    assert read_split(tmp_path, "mnli", "dev")["text"] == ["in"]
    assert read_split(tmp_path, "mnli", "dev", mismatched=True)["text"] == ["out"]


def test_mrpc_from_microsofts_files(tmp_path):
    rows = ["1\t10\t11\ta\tb", "0\t20\t21\tc\td", "1\t30\t31\te\tf"]
    write(tmp_path, "msr_paraphrase_train.txt", "\n".join([MRPC_HEAD, *rows]) + "\n")
    write(tmp_path, "msr_paraphrase_test.txt", f"{MRPC_HEAD}\n1\t40\t41\tg\th\n")
    assert read_split(tmp_path, "mrpc", "train")["text"] == ["a", "c", "e"]
    assert read_split(tmp_path, "mrpc", "dev")["text"] == ["g"]
    write(tmp_path, "dev_ids.tsv", "20\t21\n")
    assert read_split(tmp_path, "mrpc", "train")["text"] == ["a", "e"]
    assert read_split(tmp_path, "mrpc", "dev")["text"] == ["c"]


@pytest.mark.parametrize("inside", ["SST-2", "sst2", "sst-2", "."])
def test_the_folder_of_a_task_is_found(tmp_path, inside):
    folder = write(tmp_path / inside, "train.tsv", "sentence\tlabel\n")
    assert find_task_folder(tmp_path, "sst2").samefile(folder)
    assert find_task_folder(folder, "sst2").samefile(folder)


def test_a_folder_without_the_task_is_refused(tmp_path):
    (tmp_path / "RTE").mkdir()
    with pytest.raises(ConfigError, match="no folder 'SST-2'"):
        find_task_folder(tmp_path, "sst2")
    with pytest.raises(ConfigError, match="is not a folder"):
        find_task_folder(tmp_path / "nowhere", "sst2")


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("sst2", "sentence\tlabel\ngood\t1\ncut sho", r"train\.tsv:3: the row has 1 of 2 columns"),
        ("sst2", "sentence\tlabel\n\nbad\t0\n", r"train\.tsv:2: the row has 1 of 2"),
        ("sst2", "sentence\tlabel\nfine\t2\n", r"train\.tsv:2: label '2' is not one of SST-2's"),
        ("rte", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n", r":2: label '1' is not one"),
        ("cola", "gj04\t1\n", r"train\.tsv:1: the row has 2 of 4 columns"),
        ("sst2", "text\tlabel\nfine\t1\n", r"train\.tsv:1: the header has no column 'sentence'"),
        ("sst2", "", r"train\.tsv:1: the header has no column 'sentence'"),
        (
            "stsb",
            FORMATS[4][2].replace("2.800", "5.1"),
            r"train\.tsv:2: score '5\.1' is not a number from 0 to 5",
        ),
        (
            "stsb",
            FORMATS[4][2].replace("2.800", "nan"),
            r"score 'nan' is not a number from 0 to 5",
        ),
    ],
)
def test_what_is_wrong_with_a_file_names_its_line(tmp_path, task, text, message):
    write(tmp_path, "train.tsv", text)
    with pytest.raises(ConfigError, match=message):
        read_split(tmp_path, task, "train")


def test_a_missing_file_and_a_binary_one_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.tsv is missing"):
        read_split(tmp_path, "sst2", "train")
    with pytest.raises(ConfigError, match=r"msr_paraphrase_train\.txt too"):
        read_split(tmp_path, "mrpc", "train")
    (tmp_path / "train.tsv").write_bytes(b"sentence\tlabel\n\xff\xfe\t1\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_split(tmp_path, "sst2", "train")


def test_only_qqp_may_lack_a_few_rows_and_says_so(tmp_path):
    head = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    write(tmp_path, "train.tsv", head + "1\t2\t3\tWhy?\tWhat?\t0\nbroken\n")
    with pytest.warns(UserWarning, match="1 rows with missing columns"):
        assert read_split(tmp_path, "qqp", "train")["label"] == [0]
    write(tmp_path, "train.tsv", head + "broken\n" * 51)
    with pytest.raises(ConfigError, match=r"train\.tsv:52"):
        read_split(tmp_path, "qqp", "train")


def test_task_names_in_any_spelling():
    assert [task_name(name) for name in ("SST-2", "sst2", "STS_B", "MNLI")] == [
        "sst2",
        "sst2",
        "stsb",
        "mnli",
    ]
    with pytest.raises(ConfigError, match=r"data\.task is 'snli'; choose one of cola, sst2"):
        task_name("snli")
