"""Tokenizers of text: what they learn, what they tell of each token, and files that come from elsewhere."""

import json
import multiprocessing
import re
import warnings
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from tests.two_sequences import check
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from plugformer.errors import UserError
from plugformer.interfaces import DataSpec
from plugformer.registry import build
from plugformer.testing.samples import make_samples
from plugformer_text.text_bytes import TextBytes

TEXTS = [paragraph for topic in list(topics.values())[:6] for paragraph in topic.split("\n\n") if paragraph]
HELD_OUT = "\n".join(list(topics.values())[10].split("\n\n")[:20]) + " 안녕하세요 🎉 é ½ <pad>"
LEARNED = ("text_bpe", "text_wordpiece", "text_unigram")
SIZE = 300


def samples(texts=TEXTS):
    return [{"id": f"doc/{number}", "text": text} for number, text in enumerate(texts)]


def fitted(name, texts=TEXTS, **options):
    tokenizer = build("tokenizer", {"name": name, **({"vocab_size": SIZE} if name in LEARNED else {}), **options})
    tokenizer.fit(samples(texts))
    return tokenizer


def largest(name, texts=TEXTS, **options):
    """With as many pieces as there are."""
    with pytest.raises(UserError, match="fills only") as told:
        fitted(name, texts, vocab_size=100_000, **options)
    return fitted(
        name, texts, vocab_size=int(re.search(r"Set tokenizer.vocab_size=(\d+)", str(told.value))[1]), **options
    )


def ids(tokenizer, text):
    return tokenizer.encode({"id": "it", "text": text})["ids"].tolist()


def pieces(tokenizer):
    return tokenizer.vocabulary.library.get_vocab(with_added_tokens=False)


# ---------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("name", LEARNED)
def test_the_same_text_teaches_the_same(name):
    """To the bit, though the library's own trainers depend on the order of its hash tables."""
    first, *others = (fitted(name).vocabulary.library.to_str() for _ in range(4))
    assert all(json.loads(other) == json.loads(first) for other in others)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("asked", [1, 100_000])
def test_a_vocabulary_is_as_large_as_asked_or_refused_with_a_size_that_works(name, asked):
    assert fitted(name).spec.vocab_size == SIZE == len(fitted(name).vocabulary.library.get_vocab())
    with pytest.raises(
        UserError, match=rf"tokenizer.vocab_size={asked}: .*\n  Set tokenizer.vocab_size=\d+ or"
    ) as told:
        fitted(name, vocab_size=asked)
    assert ("fills only" in str(told.value)) == (asked > SIZE)
    possible = int(re.search(r"Set tokenizer.vocab_size=(\d+)", str(told.value))[1])
    assert fitted(name, vocab_size=possible).spec.vocab_size == possible


@pytest.mark.parametrize("name", LEARNED)
def test_pieces_are_as_frequent_as_asked(name):
    text = "\n".join(TEXTS)
    if name == "text_bpe":
        ((text, _),) = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    elif name == "text_unigram":
        text = "▁" + text.replace(" ", "▁").replace("\n", "\n▁")
    for frequency in (2, 20):
        tokenizer = largest(name, min_frequency=frequency)
        unknown = tokenizer.spec.specials.get("unk")
        learned = [piece.removeprefix("##") for piece, number in pieces(tokenizer).items() if number != unknown]
        several = [piece for piece in learned if len(piece) > 1]
        rare = [each for each in several if len(re.findall(f"(?={re.escape(each)})", text)) < frequency]  # overlapping
        assert several
        assert not rare
    with pytest.raises(UserError, match=r"fills only \d+, with tokenizer.min_frequency=1000"):
        fitted(name, vocab_size=1000, min_frequency=1000)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_nothing_is_learned_from_nothing(name, texts):
    with pytest.raises(UserError, match="there is no training text to learn from"):
        fitted(name, texts)


@pytest.mark.parametrize("name", [*LEARNED, "text_bytes"])
def test_normalisation_makes_equal_what_it_should(name):
    decomposed, composed = "Ame\u0301lie  ﬁnds", "Am\u00e9lie  ﬁnds"
    texts = [*TEXTS, *[composed] * 3, *[decomposed] * 3]
    plain, nfc, nfkc = (fitted(name, texts, normalisation=form) for form in ("none", "nfc", "nfkc"))
    lower = fitted(name, texts, lowercase=True)
    assert ids(plain, decomposed) != ids(plain, composed)
    assert ids(nfc, decomposed) == ids(nfc, composed) != ids(nfc, composed.lower())
    assert ids(nfkc, decomposed) == ids(nfkc, "Am\u00e9lie  finds") != ids(nfkc, "am\u00e9lie")
    assert ids(lower, composed) == ids(lower, composed.upper().replace("FI", "ﬁ"))
    assert not nfc.lossless
    assert plain.lossless == (name in ("text_bpe", "text_bytes"))
    for tokenizer in (nfc, nfkc, lower):
        assert tokenizer.encode({"text": decomposed})["bytes"].sum() == len(decomposed.encode())


# ---------------------------------------------------------------------------------------------- tokens


def test_bytes_are_bytes():
    text = "né\0 🎉"
    tokenizer = TextBytes(bos=False, eos=False)
    features = tokenizer.encode({"text": text})
    assert bytes(features["ids"].tolist()) == text.encode()
    assert features["bytes"].eq(1).all()
    assert features["words"].tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("name", [*LEARNED, "text_bytes"])
def test_words_are_numbered_and_bytes_are_those_since_the_token_before(name):
    text = "if key:  The 한국 value"
    features = fitted(name).encode({"text": text})
    words, widths = features["words"], features["bytes"]
    assert (words[0], words[-1], widths[0], widths[-1]) == (-1, -1, 0, 0)
    steps = words[1:-1].diff()
    assert words[1] == 0
    assert ((steps == 0) | (steps == 1)).all()
    assert words.max() in range(5, 9)
    ends = widths.cumsum(0)[words >= 0]
    assert ends[-1] == len(text.encode())
    for number in range(int(words.max())):
        end = int(widths.cumsum(0)[words == number][-1])
        text.encode()[:end].decode()  # a word never ends within a character


def test_byte_level_tokens_count_their_own_bytes():
    """Faster than by offsets, which give a character's bytes to the first of its tokens."""
    tokenizer = fitted("text_bpe")
    features = tokenizer.encode({"text": HELD_OUT})
    for number, width in zip(features["ids"].tolist()[1:-1], features["bytes"].tolist()[1:-1], strict=True):
        assert len(tokenizer.vocabulary.library.id_to_token(number)) == width


def test_truncation_keeps_one_side_and_what_stands_around():
    whole = ids(fitted("text_bytes"), "abcdef")
    assert ids(fitted("text_bytes", max_length=5), "abcdef") == [whole[0], *b"abc", whole[-1]]
    assert ids(fitted("text_bytes", max_length=5, truncation="left"), "abcdef") == [whole[0], *b"def", whole[-1]]
    assert ids(fitted("text_bytes", max_length=5, eos=False), "abcdef") == [whole[0], *b"abcd"]
    refusing = fitted("text_bytes", max_length=5, truncation="refuse")
    assert len(ids(refusing, "abc")) == 5
    with pytest.raises(UserError, match=r"^it: its 6 tokens are more than tokenizer.max_length=5\.\n  Set a greater"):
        ids(refusing, "abcd")


def test_padding_goes_to_a_multiple_and_is_told_only_if_there_is_any():
    tokenizer = fitted("text_bytes", max_length=16, pad_to_multiple=8)
    encoded = [tokenizer.encode({"text": text}) for text in ("abcdef", "abc", "abcdefg")]
    batch = tokenizer.collate(encoded)
    assert batch["ids"].shape == (3, 16)
    assert batch["valid"].sum(1).tolist() == [8, 5, 9]
    assert (batch["ids"][~batch["valid"]] == tokenizer.spec.specials["pad"]).all()
    assert (batch["words"][~batch["valid"]] == -1).all()
    assert (batch["bytes"][~batch["valid"]] == 0).all()
    alone = tokenizer.collate(encoded[:1])
    assert "valid" not in alone
    assert alone["ids"].shape == (1, 8)
    assert "segments" not in batch


def test_a_text_without_tokens_is_named():
    with pytest.raises(UserError, match=r"^it: its text has no tokens.\n  Leave it out, or set tokenizer.bos=true"):
        ids(fitted("text_bytes", bos=False, eos=False), "")


@pytest.mark.parametrize("name", ["text_bpe", "text_bytes"])
def test_half_a_character_is_refused_by_name_and_place(name):
    message = r"^doc/1: character 2 is U\+D83D, a lone surrogate"
    with pytest.raises(UserError, match=message):
        fitted("text_bpe", ["fine", "no\ud83d"])
    tokenizer = fitted(name)
    for use in (tokenizer.encode, lambda sample: build("tokenizer", {"name": name}).encode, tokenizer.read):
        if use == tokenizer.read:
            with pytest.raises(UserError, match="character 2 is U"):
                use("no\ud83d")
        elif use == tokenizer.encode:
            with pytest.raises(UserError, match=message):
                use({"id": "doc/1", "text": "no\ud83d"})


LONG = "a b c d e f g h"


@pytest.mark.parametrize(
    ("name", "options", "use"),
    [
        ("text_bytes", {"max_length": 2}, None),
        ("text_bytes", {"max_length": 10, "pad_to_multiple": 3}, None),
        ("text_bytes", {"truncation": "left", "packing": "fit"}, None),
        ("text_bytes", {"sentinels": -1}, None),
        ("text_bytes", {"max_length": 5, "truncation": "refuse"}, lambda made: ids(made, LONG)),
        ("text_bytes", {"bos": False, "eos": False}, lambda made: ids(made, "")),
        ("text_bytes", {"bos": False}, lambda made: made.prompt("")),
        ("text_bytes", {"max_length": 5}, lambda made: made.read(LONG)),
        ("text_bpe", {"vocab_size": 0}, None),
        ("text_bpe", {"file": Path("nowhere"), "from_run": Path("nowhere")}, None),
        ("text_bpe", {"file": Path("nowhere"), "vocab_size": 300}, None),
        ("text_bpe", {"file": Path("nowhere")}, lambda made: made.fit([])),
        ("text_bpe", {"vocab_size": 300}, lambda made: made.fit([])),
        ("text_bpe", {"vocab_size": 10}, lambda made: made.fit(samples())),
        ("text_bpe", {"vocab_size": 100_000}, lambda made: made.fit(samples())),
        ("text_wordpiece", {"vocab_size": 10}, lambda made: made.fit(samples())),
        ("text_unigram", {"min_frequency": 9}, lambda made: made.fit(samples([LONG]))),
        ("text_symbols", {"vocab_size": 9, "max_length": 5}, lambda made: made.fit(samples([LONG] * 2))),
    ],
)
def test_messages_name_the_options_of_the_part_that_a_tokenizer_is(name, options, use):
    """Those of the target's tokenizer, where it is that one's."""

    def said(part):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                made = build(part, {"name": name, **options}, part=part)
                assert use is not None, "no mistake"
                use(made)
            except UserError as error:
                return str(error)
        return "\n".join(str(warning.message) for warning in warned)

    of_target = said("target_tokenizer")
    assert re.search(r"\btarget_tokenizer\.\w", of_target)
    assert not re.search(r"\btokenizer\.(?!json)", of_target)
    assert of_target.replace("target_tokenizer.", "tokenizer.") == said("tokenizer")


def test_a_composition_says_which_part_a_tokenizer_is():
    for part in ("tokenizer", "target_tokenizer"):
        with pytest.raises(UserError, match=rf"^{part}\.max_length=2: must be at least 3, to have room for text\.$"):
            check("target_tokenizer=text_bytes", f"{part}.max_length=2")


# ---------------------------------------------------------------------------------------------- special tokens


@pytest.mark.parametrize("name", [*LEARNED, "text_bytes"])
def test_names_of_special_tokens_in_the_training_text_are_text(name):
    """Even if they are so frequent that they become tokens themselves."""
    named = "<mask><pad> <mask> <bos> <eos> [MASK] <unk> [UNK] "
    texts = [named * 50, *(word for word in named.split() for _ in range(50))]
    tokenizer = largest(name, texts) if name in LEARNED else fitted(name)
    specials = set(tokenizer.spec.specials.values())
    assert len(specials) == len(tokenizer.spec.specials)
    for text in (named, *named.split(), "a<mask>"):
        assert not specials & set(ids(tokenizer, text)[1:-1])
    if tokenizer.lossless:
        assert tokenizer.decode(torch.tensor(ids(tokenizer, named))) == named


@pytest.mark.parametrize("name", [*LEARNED, "text_bytes"])
def test_only_a_command_line_means_the_mask_by_its_name(name):
    tokenizer = fitted(name, packing="fill")
    mask = tokenizer.spec.specials["mask"]
    read = tokenizer.read("the [MASK] is[MASK]")
    assert tokenizer.sequences([read]) == [read]
    encoded = tokenizer.encode(read)
    assert encoded["ids"].eq(mask).sum() == 2
    assert mask not in ids(tokenizer, "the [MASK] is[MASK]")
    assert encoded["words"][encoded["ids"] == mask].tolist() == [-1, -1]
    words = encoded["words"][encoded["words"] >= 0]
    assert (words.diff() >= 0).all()
    before = "the " if name == "text_bytes" else "the"  # elsewhere a space belongs to the word behind it
    *front, end = ids(tokenizer, before)
    assert tokenizer.encode(tokenizer.read("the [MASK]"))["ids"].tolist() == [*front, mask, end]
    plain = tokenizer.read("the value is")
    assert tokenizer.encode(plain)["ids"].tolist() == ids(tokenizer, "the value is")


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", LEARNED)
def test_transformers_reads_what_is_saved(name, tmp_path):
    tokenizer = fitted(name, bos=False, eos=False, max_length=10_000)
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path, split_special_tokens=True)
    for text in (*TEXTS[:20], HELD_OUT, "<mask> <pad>"):
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids(tokenizer, text)
    for role in ("pad", "bos", "eos", "mask"):
        assert getattr(theirs, f"{role}_token_id") == tokenizer.spec.specials[role]


@pytest.mark.parametrize("name", LEARNED)
def test_a_trained_tokenizer_is_used_as_it_is(name, tmp_path):
    """From its file, or from the run directory that it stands in; nothing is learned, not even a size."""
    first = fitted(name, bos=False)
    folder = tmp_path / "run" / "tokenizer"
    folder.mkdir(parents=True)
    first.save(folder)
    (tmp_path / "run" / "config.yaml").write_text("")
    for origin in ({"file": folder / "tokenizer.json"}, {"from_run": tmp_path / "run"}):
        for life in ("fit", "assume"):
            other = build("tokenizer", {"name": name, "bos": False, **origin})
            other.fit(samples(["entirely other"])) if life == "fit" else other.assume(DataSpec(frozenset()))
            assert other.spec == first.spec
            assert ids(other, HELD_OUT) == ids(first, HELD_OUT)


def test_of_a_run_with_two_tokenizers_each_part_takes_its_own(tmp_path):
    """And of one with one for both, that."""
    (tmp_path / "config.yaml").write_text("")

    def taken(kind, **context):
        made = build(kind, {"name": "text_bpe", "from_run": tmp_path}, **context)
        made.fit([])
        return ids(made, HELD_OUT)

    read, written = fitted("text_bpe"), fitted("text_bpe", TEXTS[::-3])
    assert ids(read, HELD_OUT) != ids(written, HELD_OUT)
    for folder, made in (("tokenizer", read), ("target_tokenizer", written)):
        (tmp_path / folder).mkdir()
        made.save(tmp_path / folder)
        assert taken("tokenizer") == ids(read, HELD_OUT)
        assert taken("target_tokenizer", part="target_tokenizer") == ids(made, HELD_OUT)


def test_a_trained_tokenizer_is_not_told_what_to_learn(tmp_path):
    for option in ({"vocab_size": 500}, {"min_frequency": 2}, {"normalisation": "nfc"}, {"lowercase": False}):
        (key,) = option
        with pytest.raises(UserError, match=rf"^tokenizer.{key}=\w+: a trained tokenizer has its own"):
            build("tokenizer", {"name": "text_bpe", "file": tmp_path, **option})
    with pytest.raises(UserError, match=r"tokenizer.file and tokenizer.from_run: set one of them"):
        build("tokenizer", {"name": "text_bpe", "file": tmp_path, "from_run": tmp_path})


def gpt2_like(path: Path, **config: str) -> Path:
    """With a special token among the pieces, and none for padding or masks."""
    learned = json.loads(fitted("text_bpe").vocabulary.library.to_str())
    model = learned["model"]
    vocabulary = {**model["vocab"], "<|endoftext|>": len(model["vocab"])}
    merges = [tuple(merge) for merge in model["merges"]]
    library = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    library.enable_truncation(3)
    library.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path / "tokenizer.json"


def test_a_file_like_gpt2s_is_taken_with_its_roles(tmp_path):
    tokenizer = build("tokenizer", {"name": "text_bpe", "file": gpt2_like(tmp_path)})
    tokenizer.fit([])
    end = tokenizer.spec.vocab_size - 1
    assert tokenizer.spec.specials == {"bos": end, "eos": end, "pad": end}
    text = "a long text <|endoftext|> 🎉"
    assert tokenizer.decode(tokenizer.encode({"text": text})["ids"]) == text
    assert ids(tokenizer, text).count(end) == 2
    assert "[MASK]" in tokenizer.decode(tokenizer.read("a [MASK]")["encoded"]["ids"]), "without a mask it is text"


def test_the_roles_that_a_config_names_come_first(tmp_path):
    path = gpt2_like(tmp_path, bos_token="in", eos_token={"content": "<|endoftext|>"})
    tokenizer = build("tokenizer", {"name": "text_bpe", "file": path})
    tokenizer.fit([])
    vocabulary = tokenizer.vocabulary.library
    assert tokenizer.spec.specials["bos"] == vocabulary.token_to_id("in") != tokenizer.spec.specials["eos"]


def test_a_unigram_file_with_special_tokens_among_its_pieces(tmp_path):
    """As T5's, whose model by itself would take the text <pad> for padding."""
    scores = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((each, -3.0) for each in "▁<>/padsunk")]
    library = Tokenizer(models.Unigram(scores, unk_id=2))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.add_special_tokens(["<pad>", "</s>", "<unk>"])
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = build("tokenizer", {"name": "text_unigram", "file": tmp_path / "tokenizer.json", "bos": False})
    tokenizer.fit([])
    assert tokenizer.spec.specials == {"pad": 0, "eos": 1, "unk": 2}
    assert ids(tokenizer, "<pad></s> <unk>é")[:-1] == [3, 4, 7, 8, 9, 5, 4, 6, 10, 5, 3, 4, 11, 12, 13, 5, 2]
    tokenizer.save(tmp_path)
    again = build("tokenizer", {"name": "text_unigram", "bos": False})
    again.load(tmp_path)
    assert again.spec == tokenizer.spec
    assert ids(again, "<pad> a") == ids(tokenizer, "<pad> a")


def test_files_that_cannot_be_used_are_refused_by_name(tmp_path):
    path = gpt2_like(tmp_path)
    library = json.loads(path.read_text())
    bare = tmp_path / "bare.json"
    library["added_tokens"] = []
    del library["model"]["vocab"]["<|endoftext|>"]
    bare.write_text(json.dumps(library))
    foreign = tmp_path / "foreign.json"
    foreign.write_text('{"a": 1}')
    for name, file, message in (
        ("text_bpe", bare, r"has no special token for pad.\n  Its special tokens: none. To go on, name one in the"),
        ("text_wordpiece", path, "the model in it is BPE, and this tokenizer needs WordPiece"),
        ("text_bpe", foreign, "no tokenizer.json of the tokenizers library"),
        ("text_bpe", tmp_path / "none.json", r"can't be read \(No such file"),
    ):
        tokenizer = build("tokenizer", {"name": name, "file": file})
        with pytest.raises(UserError, match=f"^tokenizer.file={file}: .*{message}"):
            tokenizer.assume(DataSpec(frozenset()))
    named = gpt2_like(tmp_path, eos_token="zzz")
    content = named.read_text().replace("<|endoftext|>", "</s>")
    named.write_text(content)
    with pytest.raises(UserError, match=r"no special token for bos.\n .* set tokenizer.bos=false, or name one in"):
        build("tokenizer", {"name": "text_bpe", "file": named}).fit([])
    with pytest.raises(UserError, match="elsewhere"):
        build("tokenizer", {"name": "text_bpe", "from_run": tmp_path / "elsewhere"}).fit([])


# ---------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 2}, "tokenizer.max_length=2: must be at least 3, to have room for text"),
        ({"max_length": 3, "packing": "fill"}, "tokenizer.max_length=3: must be at least 4"),
        (
            {"pad_to_multiple": 7},
            "tokenizer.pad_to_multiple=7: must be at least 1 and divide tokenizer.max_length=1024",
        ),
        ({"packing": "fit", "truncation": "left"}, "tokenizer.truncation=left: tokenizer.packing=fit cuts long"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        build("tokenizer", {"name": "text_bytes", **options})


def test_numbers_of_learning_must_be_positive():
    for name in ("vocab_size", "min_frequency"):
        with pytest.raises(UserError, match=f"tokenizer.{name}=0: must be at least 1"):
            build("tokenizer", {"name": "text_bpe", name: 0})


def _encode(tokenizer, queue):
    queue.put(ids(tokenizer, HELD_OUT))


def test_encodes_in_a_forked_worker_without_a_word(capfd):
    """Some versions of the library warn of a fork after threads were used, and a worker that used them could hang."""
    tokenizer = fitted("text_bpe", packing="fill")
    tokenizer.sequences(samples())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_encode, args=(tokenizer, queue))
    worker.start()
    assert queue.get(timeout=30) == ids(tokenizer, HELD_OUT)
    worker.join()
    assert capfd.readouterr().err == ""


def test_the_samples_of_suites_are_enough():
    assert fitted("text_bpe", [sample["text"] for sample in make_samples(8)], vocab_size=280).spec.vocab_size == 280
