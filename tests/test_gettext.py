"""Catalogs of gettext: what is read of them, how often, and what is refused."""

import sys

import polib
import pytest

from plugformer.data.splits import SPLITS
from plugformer.errors import UserError
from plugformer.registry import build
from plugformer_text.catalogs import find_catalogs, read_catalog, same_language
from plugformer_text.placeholders import mask, placeholders

KOREAN = "nplurals=1; plural=0;"
# Rules of the GNU gettext manual, "Plural forms", and of CLDR.
LATVIAN = "nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n != 0 ? 1 : 2);"
RUSSIAN = "nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n%10>=2 && n%10<=4 && (n%100<10 || n%100>=20) ? 1 : 2);"
ARABIC = (
    "nplurals=6; plural=n==0 ? 0 : n==1 ? 1 : n==2 ? 2 : n%100>=3 && n%100<=10 ? 3 : n%100>=11 && n%100<=99 ? 4 : 5;"
)


def source(**options):
    return build("data", {"name": "gettext", **options})


def everything(made):
    return [sample for split in SPLITS for sample in made.samples(split)]


def pairs(made):
    return sorted((sample["text"], sample["target_text"]) for sample in everything(made))


def catalog(*entries, plural=KOREAN, charset="UTF-8", **metadata):
    made = polib.POFile(encoding=charset)
    made.metadata = {"Content-Type": f"text/plain; charset={charset}", "Plural-Forms": plural, **metadata}
    for entry in entries:
        made.append(entry if isinstance(entry, polib.POEntry) else polib.POEntry(msgid=entry[0], msgstr=entry[1]))
    return made


def save(made, root, language="ko", name="app", *, kinds=("po",)):
    folder = root / "locale" / language / "LC_MESSAGES"
    folder.mkdir(parents=True, exist_ok=True)
    if "po" in kinds:
        made.save(str(folder / f"{name}.po"))
    if "mo" in kinds:
        made.save_as_mofile(str(folder / f"{name}.mo"))
    return folder / f"{name}.{kinds[0]}"


def numbered(count, language="ko", start=0):
    return [(f"Message {n}", f"{language} {n}") for n in range(start, start + count)]


FILES = polib.POEntry(msgid="%d file", msgid_plural="%d files", msgstr_plural={0: "파일 %d개"})
STRANGE = [
    ('Quoted "text"\nover\tlines \\ and \x7f', '"인용"\n줄\t바꿈 \\'),
    ("  Around  ", "\n주위 "),
    polib.POEntry(msgctxt="a month", msgid="May", msgstr="5월"),
    FILES,
]


# ---------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("charset", ["UTF-8", "EUC-KR"])
def test_written_and_compiled_catalogs_say_the_same_once(tmp_path, charset):
    made = catalog(*numbered(12), *STRANGE, charset=charset)
    found = {}
    for kinds in (("po",), ("mo",), ("po", "mo")):
        root = tmp_path / "-".join(kinds)
        save(made, root, kinds=kinds)
        found[kinds] = source(root=root)
        assert found[kinds].spec.keys == {"id", "text", "target_text", "group"}
        assert all(len(found[kinds].samples(split)) for split in SPLITS)
    expected = {
        *numbered(12),
        STRANGE[0],
        STRANGE[1],
        ("May", "5월"),
        ("%d file", "파일 %d개"),
        ("%d files", "파일 %d개"),
    }
    for one in found.values():
        assert pairs(one) == sorted(expected)
        assert not one.left_out
    assert found["po",].fingerprint() == found["po", "mo"].fingerprint(), "the compiled one isn't read"
    assert {sample["id"].partition(":")[0] for sample in everything(found["mo",])} == {"locale/ko/LC_MESSAGES/app.mo"}


def test_places_are_those_in_the_file(tmp_path):
    made = source(root=save(catalog(*numbered(5), *STRANGE), tmp_path))
    lines = (tmp_path / "locale/ko/LC_MESSAGES/app.po").read_text(encoding="utf-8").split("\n")
    for sample in everything(made):
        name, line, *plural = sample["id"].split(":")
        assert name == "app.po"
        start = "\n".join(lines[int(line) - 1 :])
        assert start.startswith(("msgid", "msgctxt", "\nmsgid", "\nmsgctxt"))
        assert bool(plural) == (sample["text"] == "%d files")


def test_fuzzy_obsolete_and_untranslated_entries_are_left_out_and_counted(tmp_path):
    left_out = [
        polib.POEntry(msgid="Fuzzy", msgstr="흐림", flags=["fuzzy"]),
        polib.POEntry(msgid="Gone", msgstr="없음", obsolete=True),
        polib.POEntry(msgid="Gone too", msgstr="없음", obsolete=True),
        ("Not yet", ""),
        ("Blank", "  "),
        polib.POEntry(msgid="%d dog", msgid_plural="%d dogs", msgstr_plural={0: ""}),
    ]
    save(catalog(*numbered(6), *left_out), tmp_path)
    made = source(root=tmp_path, min_words=2)
    assert pairs(made) == sorted(numbered(6))
    assert made.left_out == {"fuzzy": 1, "obsolete": 2, "untranslated": 3}
    assert pairs(source(root=tmp_path, min_words=2)) == pairs(made)


@pytest.mark.parametrize(
    ("rule", "one", "several"),
    [
        (KOREAN, 0, 0),
        ("nplurals=2; plural=(n != 1);", 0, 1),
        ("nplurals=2; plural=(n > 1);", 0, 1),
        (LATVIAN, 0, 1),
        (RUSSIAN, 0, 2),
        (ARABIC, 1, 4),
        (None, 0, 5),
    ],
    ids=["Korean", "German", "French", "Latvian", "Russian", "Arabic", "unknown"],
)
@pytest.mark.parametrize("kind", ["po", "mo"])
def test_plural_forms_are_those_that_the_rule_gives(tmp_path, rule, one, several, kind):
    """That of one, and that which most numbers take: neither need be the first or the last."""
    forms = {number: f"form {number}" for number in range(6)}
    made = catalog(polib.POEntry(msgid="a file", msgid_plural="files", msgstr_plural=forms), plural=rule or "")
    if rule is None:
        del made.metadata["Plural-Forms"]
    (message,) = read_catalog(save(made, tmp_path, kinds=(kind,)))
    assert message.pairs == (("a file", f"form {one}"), ("files", f"form {several}"))


def test_plurals_may_be_left_out(tmp_path):
    save(catalog(*numbered(6), FILES), tmp_path)
    for plurals, kept, left_out in [("both", 8, {}), ("singular", 7, {"plural": 1}), ("skip", 6, {"plural": 2})]:
        made = source(root=tmp_path, plurals=plurals)
        assert len(everything(made)) == kept
        assert made.left_out == left_out


# ---------------------------------------------------------------------------------------------- splitting


def test_a_message_stands_once_and_both_of_its_forms_in_one_split(tmp_path):
    """Of several translations the first counts, in the order of the files' names."""
    plural = [
        polib.POEntry(msgid=f"{n} thing", msgid_plural=f"{n} things", msgstr_plural={0: f"것 {n}"}) for n in range(30)
    ]
    save(catalog(*plural, ("Open", "열기")), tmp_path, name="a")
    again = [(f"{n}  things ", "다른") for n in range(30)]
    context = polib.POEntry(msgctxt="adjective", msgid="Open", msgstr="열린")
    save(catalog(*again, context, *numbered(5)), tmp_path, name="b")
    for seed in range(4):
        made = source(root=tmp_path, split_seed=seed, val_fraction=0.3, test_fraction=0.3)
        assert made.left_out == {}
        split_of = {sample["text"]: split for split in SPLITS for sample in made.samples(split)}
        assert made.left_out == {"repeated": 31}
        assert len(split_of) == len(everything(made)) == 66
        assert all(split_of[f"{n} thing"] == split_of[f"{n} things"] for n in range(30))
        assert dict(pairs(made))["Open"] == "열기"
        groups = [{sample["group"] for sample in made.samples(split)} for split in SPLITS]
        assert len(set.union(*groups)) == sum(map(len, groups)) == 36


def test_messages_that_differ_in_capitals_alone_are_two_in_one_split(tmp_path):
    both = [pair for n in range(12) for pair in ((f"save {n}", f"저장 {n}"), (f"Save {n}", f"저장하기 {n}"))]
    save(catalog(*both), tmp_path)
    for seed in range(4):
        made = source(root=tmp_path, split_seed=seed, val_fraction=0.3, test_fraction=0.3)
        assert pairs(made) == sorted(both)
        held = [{sample["text"].lower() for sample in made.samples(split)} for split in SPLITS]
        assert len(set.union(*held)) == sum(map(len, held)) == 12
        assert made.left_out == {}


def test_forms_that_meet_in_another_message_stand_with_it(tmp_path):
    """`b` is the plural of one and the singular of another; the three of them are one group."""
    chain = [("a", "b"), ("c", "d"), ("b", "c")]
    made = [polib.POEntry(msgid=one, msgid_plural=many, msgstr_plural={0: one}) for one, many in chain]
    save(catalog(*made, *numbered(3)), tmp_path)
    groups = {sample["text"]: sample["group"] for sample in everything(source(root=tmp_path))}
    assert len({groups[text] for text in "abcd"}) == 1
    assert len(set(groups.values())) == 4


def test_fingerprints_change_if_and_only_if_pairs_do(tmp_path):
    def made(name, *entries, **options):
        save(catalog(*entries), tmp_path / name)
        save(catalog(*numbered(4, "de")), tmp_path / name, "de")
        return source(root=tmp_path / name, **options).fingerprint()

    known = made("a", *numbered(20))
    assert made("b", *numbered(20)) == known, "wherever it lies"
    assert made("c", *numbered(20), polib.POEntry(msgid="x", msgstr="y", flags=["fuzzy"])) == known
    others = [
        made("d", *numbered(21)),
        made("e", ("Message 0", "다른"), *numbered(19, start=1)),
        made("f", *numbered(20), split_seed=1),
        made("g", *numbered(19), ("Message 20", "ko 19")),
    ]
    assert len({known, *others}) == 5


# ---------------------------------------------------------------------------------------------- placeholders


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("%(name)s of %(count)d, %s %5.2f %-10s %02d", ["%(name)s", "%(count)d", "%s", "%5.2f", "%-10s", "%02d"]),
        ("%1$s before %2$d, %lu, %*d", ["%1$s", "%2$d", "%lu", "%*d"]),
        ("{} {0} {name} {name!r:>10} {a.b} {a[0]}", ["{}", "{0}", "{name}", "{name!r:>10}", "{a.b}", "{a[0]}"]),
        ("100 % sure, 5 %, %%s, {{name}}, { }, {a b}, 3 < 4 %", []),
        ("%%%s and {{{name}}}", ["%s", "{name}"]),
    ],
)
def test_placeholders_are_those_that_programs_fill(text, found):
    assert list(placeholders(text)) == found


def test_masked_placeholders_have_one_number_in_both_languages(tmp_path):
    source_text, target = "%(user)s sent %(count)d of %(user)s to {0}", "{0}에게 %(user)s님이 %(count)d개를 %s"
    assert mask(source_text, target) == ("{1} sent {2} of {1} to {3}", "{3}에게 {1}님이 {2}개를 {4}")
    assert mask("100%% {{x}}", "100 %") == ("100%% {{x}}", "100 %")
    save(catalog(*numbered(6), (source_text, target), ("%s left", "%s 남음"), ("%d left", "%d 남음")), tmp_path)
    kept, masked, skipped = (source(root=tmp_path, placeholders=how) for how in ("keep", "mask", "skip"))
    assert (source_text, target) in pairs(kept)
    assert pairs(masked) == sorted([*numbered(6), mask(source_text, target), ("{1} left", "{1} 남음")])
    assert pairs(skipped) == sorted(numbered(6))
    assert (masked.left_out, skipped.left_out) == ({"repeated": 1}, {"with placeholders": 3})


# ---------------------------------------------------------------------------------------------- languages


def test_codes_are_compared_as_gettext_has_them(tmp_path):
    assert same_language("pt-br") == same_language("pt_BR") == same_language("pt_BR.UTF-8") != same_language("pt")
    assert same_language("sr_RS.UTF-8@latin") == same_language("sr-rs@latin") != same_language("sr_RS")
    for language in ("ko", "ko_KP", "pt_BR", "sr@latin"):
        save(catalog(*numbered(5, language)), tmp_path, language)
    for asked, given in [("ko", "ko"), ("ko-kp", "ko_KP"), ("PT-br", "pt_BR"), ("sr@latin", "sr@latin")]:
        assert pairs(source(root=tmp_path, language=asked)) == sorted(numbered(5, given))


def test_the_language_stands_in_the_folder_or_the_header_or_the_name(tmp_path):
    save(catalog(*numbered(3), Language="de"), tmp_path)
    places = {"po/ko.po": {}, "pt_BR.po": {}, "translations/app.po": {"Language": "fr"}, "de.po": {"Language": "el"}}
    for name, metadata in places.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        catalog(*numbered(3), **metadata).save(str(tmp_path / name))
    catalog(*numbered(3), Language="fr").save_as_mofile(str(tmp_path / "translations" / "other.mo"))
    catalog(*numbered(3)).save(str(tmp_path / "Whatever.po"))
    found = {
        code: [path.relative_to(tmp_path).as_posix() for path in paths]
        for code, paths in find_catalogs(tmp_path).items()
    }
    assert found == {
        "ko": ["locale/ko/LC_MESSAGES/app.po", "po/ko.po"],
        "pt_BR": ["pt_BR.po"],
        "fr": ["translations/app.po", "translations/other.mo"],
        "el": ["de.po"],
        "": ["Whatever.po"],
    }


def test_a_language_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    for language in ("ko_KR", "de", "pt_BR"):
        save(catalog(*numbered(3)), tmp_path, language)
    for asked, told in [
        ("ko", rf"data\.language=ko: {tmp_path} has no such language, but ko_KR\.\n  It has: de, ko_KR, pt_BR$"),
        ("pt_PT", r"no such language, but pt_BR\. Did you mean pt_BR\?"),
        ("dee", r"no such language\. Did you mean de\?\n  It has: de, ko_KR, pt_BR$"),
    ]:
        with pytest.raises(UserError, match=told):
            source(root=tmp_path, language=asked).verify()


def test_catalogs_that_say_no_language_are_told_how_to(tmp_path):
    catalog(*numbered(3)).save(str(tmp_path / "Whatever.po"))
    for root in (tmp_path, tmp_path / "Whatever.po"):
        with pytest.raises(UserError, match=rf"nothing says which language the catalogs of {root} are in\.\n.*: ko,"):
            source(root=root).verify()


def test_catalogs_without_a_language_beside_others_are_left_out_with_a_warning_that_names_them(tmp_path):
    save(catalog(*numbered(5)), tmp_path)
    for name in ("Whatever", "Other"):
        catalog(*numbered(3, start=50)).save(str(tmp_path / f"{name}.po"))
    told = (
        rf"^data=gettext: nothing says which language these catalogs of {tmp_path} are in \(2\)\.\n"
        rf"  {tmp_path}/Other\.po\n  {tmp_path}/Whatever\.po\n"
        r"  They are left out\. Say it in their headers, as in Language: ko, or put them into ko/LC_MESSAGES, "
        r"or name them ko\.po\.$"
    )
    with pytest.warns(UserWarning, match=told):
        assert pairs(source(root=tmp_path)) == sorted(numbered(5))
    (tmp_path / "Whatever.po").unlink()
    catalog(*numbered(3, start=50), Language="ko").save(str(tmp_path / "Other.po"))
    assert pairs(source(root=tmp_path)) == sorted([*numbered(5), *numbered(3, start=50)]), "as told, and unwarned"


# ---------------------------------------------------------------------------------------------- packages


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed one that must not be imported."""
    (tmp_path / "shouting").mkdir()
    (tmp_path / "shouting" / "__init__.py").write_text("raise RuntimeError\n", encoding="utf-8")
    save(catalog(*numbered(5, "pkg")), tmp_path / "shouting" / "inner")
    save(catalog(*numbered(5, "top", 3)), tmp_path / "shouting")
    monkeypatch.syspath_prepend(tmp_path)
    return "shouting"


def test_catalogs_of_installed_packages_are_found_without_importing_them(package, tmp_path):
    made = source(packages=[package])
    assert dict(pairs(made)) == {**dict(numbered(5, "top", 3)), **dict(numbered(5, "pkg"))}, "the first translation"
    assert package not in sys.modules
    names = {sample["id"].rpartition(":")[0] for sample in everything(made)}
    assert names == {f"shouting/{part}locale/ko/LC_MESSAGES/app.po" for part in ("inner/", "")}
    inner = source(packages=[f"{package}.inner"])
    assert pairs(inner) == sorted(numbered(5, "pkg"))
    save(catalog(*numbered(1, "own", 3), *numbered(2, "own", 50)), tmp_path / "own")
    both = dict(pairs(source(packages=[package], root=tmp_path / "own")))
    assert (both["Message 3"], both["Message 50"]) == ("pkg 3", "own 50")
    turned = dict(pairs(source(packages=[f"{package}.locale", package])))
    assert turned["Message 3"] == "top 3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packages": ["shoutin"]}, r"data\.packages: no package shoutin is installed\.(.|\n)*data\.root"),
        ({"packages": ["polibb"]}, r"no package polibb is installed\. Did you mean polib\?"),
        ({"packages": ["polib"]}, r"data\.packages: polib is a single module, without a folder\.$"),
        ({"packages": ["../x"]}, r"is installed"),
        ({"packages": ["shouting.outer"]}, r"data\.packages: shouting\.outer: no such folder in "),
        ({"packages": ["pytest"]}, r"data=gettext: package pytest has no catalogs, files that end in \.po or \.mo\."),
        (
            {"packages": ["shouting"], "language": "de"},
            r"data\.language=de: package shouting has no such language\.\n  I",
        ),
        ({"packages": []}, r"data\.packages=\[\]: name at least one package"),
        ({"root": "/nowhere"}, r"data\.root=/nowhere: no such folder"),
        ({"packages": ["shouting"], "min_words": 5}, r"no message is left in ko\. Left out: 10 short\."),
        ({"packages": ["shouting"], "min_words": 0}, r"data\.min_words=0: must be at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(package, options, message):
    with pytest.raises(UserError, match=message):
        source(**options).verify()


def test_django_has_as_many_messages_as_were_counted():
    """Those of Django 5.2 in Korean, one for each distinct msgid."""
    django = pytest.importorskip("django")
    if django.VERSION[:2] != (5, 2):
        pytest.skip("counted in Django 5.2")
    made = source(plurals="singular")
    assert 820 < len(everything(made)) < 860
    assert dict(pairs(made))["Yesterday"] == "어제"


# ---------------------------------------------------------------------------------------------- broken catalogs

HEADER = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'{HEADER}\nmsgid "a"\nmsgstr "b\n', r"app\.po:6: not a catalog; a line is msgid, msgstr .*: msgstr \"b$"),
        (f'{HEADER}\nmsgid "a "b" c"\nmsgstr "d"\n', r"app\.po:5: not a catalog; "),
        (f'{HEADER}\nmsgid "a"\nmsgstring "d"\n', r"app\.po:6: not a catalog; "),
        (f'{HEADER}\nmsgid "a"\nmsgid "b"\nmsgstr "c"\n', r"app\.po:6: not a catalog \(no such line may stand here\)"),
        (f'{HEADER}\nmsgstr "c"\nmsgid "a"\n', r"app\.po:5: not a catalog \("),
        ('msgid "a"\nmsgstr "b"\n', r"app\.po:1: its header says no charset, as in Content-Type: "),
        ('# (c)\nmsgid ""\nmsgstr ""\n"Content type text\\n"\n', r"app\.po:2: its header says no charset"),
        (HEADER.replace("UTF-8", "CHARSET"), r"app\.po:3: its header says charset=CHARSET, which is none"),
        ("", r"app\.po:1: its header says no charset"),
        (
            f'{HEADER}"Plural-Forms: nplurals=2; plural=n $ 1;\\n"\n\nmsgid "a"\nmsgid_plural "b"\nmsgstr[0] "c"\n',
            r"app\.po:4: its header says Plural-Forms: nplurals=2; plural=n \$ 1;, which is no rule \(",
        ),
        (
            f'{HEADER}"Plural-Forms: nplurals=INTEGER; plural=EXPRESSION;\\n"\n\nmsgid "a"\nmsgid_plural "b"\n'
            'msgstr[0] "c"\n',
            r"app\.po:4: its header says Plural-Forms: nplurals=INTEGER; plural=EXPRESSION;, which is no rule",
        ),
    ],
)
def test_broken_catalogs_are_named_with_the_line(tmp_path, text, message):
    save(catalog(*numbered(6)), tmp_path, name="good")
    broken = save(catalog(), tmp_path)
    broken.write_text(text, encoding="utf-8")
    told = rf"data=gettext: 1 of 2 catalogs can't be read\.\n  {tmp_path}/locale/ko/LC_MESSAGES/"
    with pytest.raises(UserError, match=told) as error:
        source(root=tmp_path).verify()
    assert "\n  Mend them, or leave them out with data.bad_files=skip." in str(error.value)
    with pytest.raises(UserError, match=f"^{broken.parent}/{message}"):
        list(read_catalog(broken))
    skipping = source(root=tmp_path, bad_files="skip")
    with pytest.warns(UserWarning, match=rf"{told}(.|\n)*They are left out\."):
        assert pairs(skipping) == sorted(numbered(6))


def test_what_is_not_in_the_charset_or_was_not_compiled_is_named(tmp_path):
    written = save(catalog(*numbered(3)), tmp_path)
    data = written.read_bytes()
    written.write_bytes(data + b'\nmsgid "caf\xe9"\nmsgstr "x"\n')
    with pytest.raises(UserError, match=rf"app\.po:{data.count(10) + 2}: not utf-8; byte 10 is 0xe9\."):
        list(read_catalog(written))
    compiled = save(catalog(*numbered(30)), tmp_path, "de", kinds=("mo",))
    whole = compiled.read_bytes()
    for data, message in [
        (b"\x00" + whole[1:], r"app\.mo: not a catalog \(Invalid mo file"),
        (whole[:60], r"app\.mo: its header says no charset"),
        (whole.replace(b"charset=UTF-8", b"charset=UTF-9"), r"app\.mo: its header says charset=UTF-9, which is none"),
        (whole.replace(b"ko 7", b"ko\xff7"), r"app\.mo: not a catalog \('utf-8' codec can't decode"),
        (whole[:12] + b"\xff\xff\xff\x7f" + whole[16:], r"app\.mo: not a catalog \("),
    ]:
        compiled.write_bytes(data)
        with pytest.raises(UserError, match=f"^{compiled.parent}/{message}"):
            list(read_catalog(compiled))
