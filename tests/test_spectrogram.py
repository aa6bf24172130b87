"""Audio: spectrograms and their patches as tokens."""

import copy
import math

import pytest
import soundfile
import torch
from torch.nn import functional as F
from torchaudio import transforms
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from plugformer.assemble import build_model
from plugformer.cli.compose import compose
from plugformer.errors import UserError
from plugformer.interfaces import Audio, DataSpec
from plugformer_audio import compression
from plugformer_audio.spectrogram import Spectrogram

RATE = 16_000
SMALL = {"num_bins": 16, "patch_size": 8}


def clips(*lengths, rate=RATE, channels=1):
    """Noise under a tone that comes and goes, each of so many samples."""
    made = []
    for number, length in enumerate(lengths or (8000, 6000, 9600)):
        noise = 0.05 * torch.randn(channels, length, generator=torch.Generator().manual_seed(number))
        time = torch.arange(length) / rate
        tone = 0.5 * torch.sin(2 * math.pi * 440 * (number + 1) * time) * torch.sin(20 * time)
        made.append({"id": f"clip {number}", "audio": Audio(noise + tone, rate), "label": number % 2})
    return made


def fitted(samples=None, **options):
    tokenizer = Spectrogram(**options)
    tokenizer.fit(samples or clips())
    return tokenizer


def batch_of(tokenizer, samples=None, **how):
    return tokenizer.collate([tokenizer.encode(sample, **how) for sample in samples or clips()])


def normalised(embedding, batch):
    return embedding.standardise(embedding.front_end(batch["waveform"]))


# ---------------------------------------------------------------------------------------------- the front end

IN_SAMPLES = {"n_fft": 512, "win_length": 400, "hop_length": 160}
BANDS = {**IN_SAMPLES, "n_mels": 40, "f_min": 50.0, "f_max": 7000.0}
MEL = {"sample_rate": RATE, **BANDS}


def db(spectrogram, stype):
    """Cut off below each clip's own loudest: torchaudio takes a third axis for channels of one clip."""
    return transforms.AmplitudeToDB(stype, top_db=80)(spectrogram[:, None])[:, 0]


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"compression": "none"}, transforms.MelSpectrogram(**MEL)),
        ({}, lambda x: torch.log(transforms.MelSpectrogram(**MEL)(x) + 1e-6)),
        ({"mel_scale": "slaney"}, lambda x: torch.log(transforms.MelSpectrogram(**MEL, mel_scale="slaney")(x) + 1e-6)),
        ({"compression": "db"}, lambda x: db(transforms.MelSpectrogram(**MEL)(x), "power")),
        (
            {"compression": "db", "power": 1},
            lambda x: db(transforms.MelSpectrogram(**MEL, power=1.0)(x), "magnitude"),
        ),
        (
            {"front_end": "mfcc", "n_mels": 40, "num_bins": 16},
            transforms.MFCC(sample_rate=RATE, n_mfcc=16, melkwargs=BANDS, log_mels=True),
        ),
        (
            {"front_end": "mfcc", "n_mels": 40, "num_bins": 16, "compression": "db"},
            lambda x: transforms.MFCC(sample_rate=RATE, n_mfcc=16, melkwargs=BANDS)(x[:, None])[:, 0],
        ),
    ],
)
def test_spectrograms_are_torchaudios_to_the_bit(options, reference):
    tokenizer = fitted(**{"num_bins": 40, "f_min": 50.0, "f_max": 7000.0, "patch_size": (None, 4), **options})
    waveform = batch_of(tokenizer)["waveform"]
    waveform[1] *= 1e-6  # so soft that only its own loudest may decide what is cut off
    assert torch.equal(tokenizer.embedding(dim=4).front_end(waveform), reference(waveform))


@pytest.mark.parametrize(("num_bins", "bins"), [(257, 257), (None, 256), (100, 100)])
def test_linear_spectrograms_are_torchaudios_to_the_bit(num_bins, bins):
    tokenizer = fitted(front_end="linear", num_bins=num_bins, compression="none", patch_size=(None, 2))
    waveform = batch_of(tokenizer)["waveform"]
    expected = transforms.Spectrogram(**IN_SAMPLES)(waveform)[:, :bins]
    assert torch.equal(tokenizer.embedding(dim=4).front_end(waveform), expected)


def test_pcen_is_the_papers_recursion():
    energy = torch.rand(2, 3, 50, generator=torch.Generator().manual_seed(0)) * 10
    mean, expected = energy[..., 0], []
    for frame in energy.unbind(-1):
        mean = (1 - compression.SMOOTHING) * mean + compression.SMOOTHING * frame
        gained = frame / (compression.EPS + mean) ** compression.ALPHA
        expected.append((gained + compression.DELTA) ** compression.ROOT - compression.DELTA**compression.ROOT)
    torch.testing.assert_close(compression.pcen(energy), torch.stack(expected, -1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["log", "db", "pcen", "none"])
def test_a_model_in_bfloat16_hears_in_float32(how):
    tokenizer = fitted(**SMALL, compression=how)
    batch, embedding = batch_of(tokenizer), tokenizer.embedding(dim=4)
    expected = normalised(embedding, batch)
    rounded = copy.deepcopy(embedding).to(torch.bfloat16)
    assert {buffer.dtype for buffer in rounded.buffers() if buffer.is_floating_point()} == {torch.float32}
    assert torch.equal(normalised(rounded, batch), expected)
    assert rounded(batch).embeddings.dtype == rounded(batch).raw.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(normalised(embedding, batch), expected)
    double = copy.deepcopy(embedding).double()
    batch["waveform"] = batch["waveform"].double()
    assert double(batch).embeddings.dtype == torch.float64
    torch.testing.assert_close(normalised(double, batch).float(), expected, atol=1e-3, rtol=1e-3)


def test_weights_hold_the_statistics_they_were_trained_with_and_no_filters():
    theirs, ours = (fitted(clips()[first:], **SMALL) for first in (0, 1))
    batch, embedding = batch_of(ours), ours.embedding(dim=4)
    weights = theirs.embedding(dim=4).state_dict()
    assert not any(name.startswith("front_end") for name in weights)
    expected = normalised(theirs.embedding(dim=4), batch)
    assert not torch.equal(normalised(embedding, batch), expected)
    embedding.load_state_dict(weights)
    assert torch.equal(normalised(embedding, batch), expected)


# ---------------------------------------------------------------------------------------------- patches


@pytest.mark.parametrize(
    ("patch_size", "overlap", "height", "width"),
    [(8, 0, 8, 8), ((8, 4), (0, 1), 8, 4), (6, 1, 6, 6), ((None, 2), 0, 16, 2), ((16, 5), (0, 4), 16, 5)],
)
def test_patches_are_a_convolution_over_all_bins_and_frames(patch_size, overlap, height, width):
    tokenizer = fitted(num_bins=16, patch_size=patch_size, overlap=overlap)
    down, along = (overlap, overlap) if isinstance(overlap, int) else overlap
    embedding, batch = tokenizer.embedding(dim=8), batch_of(tokenizer)
    picture, tokens = normalised(embedding, batch), embedding(batch)
    rows, columns = tokenizer.spec.grid.shape
    stride = (height - down, width - along)
    assert picture.shape[1:] == ((rows - 1) * stride[0] + height, (columns - 1) * stride[1] + width), (
        "none is left over"
    )
    assert 61 <= picture.shape[2] < 61 + stride[1], "9600 samples have 61 frames"
    kernel = embedding.stem.weight.view(8, 1, height, width)
    expected = F.conv2d(picture[:, None], kernel, embedding.stem.bias, stride).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens.embeddings, expected, atol=1e-5, rtol=1e-5)
    assert (
        tokens.raw.shape
        == (3, rows * columns, height * width)
        == (3, len(tokenizer.spec.grid), tokenizer.spec.token_dim)
    )
    assert tokenizer.spec.overlaps == (down + along > 0)


def test_the_convolutional_stem_is_whispers():
    tokenizer = fitted(num_bins=16, patch_size=(None, 2), stem="conv")
    embedding, batch = tokenizer.embedding(dim=8), batch_of(tokenizer)
    length = len(tokenizer.spec.grid)
    theirs = WhisperEncoder(
        WhisperConfig(
            num_mel_bins=16, d_model=8, encoder_layers=0, encoder_attention_heads=1, max_source_positions=length
        )
    ).eval()
    with torch.no_grad():
        theirs.embed_positions.weight.zero_()
        for ours, other in ((embedding.stem.first, theirs.conv1), (embedding.stem.second, theirs.conv2)):
            ours.load_state_dict(other.state_dict())
    picture, tokens = normalised(embedding, batch), embedding(batch)
    torch.testing.assert_close(
        theirs.layer_norm(tokens.embeddings), theirs(picture).last_hidden_state, atol=1e-5, rtol=1e-5
    )
    assert torch.equal(tokens.raw, picture.unflatten(2, (length, 2)).permute(0, 2, 1, 3).flatten(2)), "pairs of frames"
    assert tokenizer.spec.grid.shape == (1, length)
    assert tokenizer.spec.overlaps, "neighbours hear each other"


@pytest.mark.parametrize("options", [{}, {"front_end": "mfcc", "compression": "db"}, {"compression": "pcen"}])
def test_the_loader_computes_the_same_tokens(options):
    varied = {
        "freq_masks": 2,
        "freq_mask_size": 4,
        "time_masks": 1,
        "time_mask_size": 9,
        "gain": 6.0,
        "time_shift": 0.1,
    }
    tokens = []
    for compute in ("device", "loader"):
        tokenizer = fitted(**SMALL, **options, **varied, compute=compute)
        torch.manual_seed(0)
        batch = batch_of(tokenizer, augment=True)
        assert ("spectrogram" in batch) == (compute == "loader") != ("waveform" in batch)
        torch.manual_seed(0)
        tokens.append(tokenizer.embedding(dim=8)(batch))
    assert torch.equal(tokens[0].valid, tokens[1].valid)
    torch.testing.assert_close(tokens[0].raw, tokens[1].raw, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokens[0].embeddings, tokens[1].embeddings, atol=1e-4, rtol=1e-4)


def test_patches_are_real_where_the_clip_is():
    """Each of the clip's own frames lies in a real patch, and no real patch is without one."""
    tokenizer = fitted(clips(9600), num_bins=16, patch_size=(8, 6), overlap=(0, 2))
    rows, columns = tokenizer.spec.grid.shape
    for length in (1, 159, 160, 4000, 6399, 6400, 9600, 20_000):
        (sample,) = clips(length)
        valid = tokenizer.encode(sample)["valid"].view(rows, columns)
        frames = min(length, 9600) // 160 + 1
        expected = [any(column * 4 <= frame < column * 4 + 6 for frame in range(frames)) for column in range(columns)]
        assert valid.tolist() == [expected] * rows
        assert valid[:, 0].all()
    silent = fitted(clips(9600), **SMALL, padding="silence")
    assert "valid" not in silent.encode(clips(100)[0])
    assert (tokenizer.spec.pads, silent.spec.pads) == (True, False)


@pytest.mark.parametrize(("patch_size", "shape"), [(8, (2, 1)), ((None, 1), (1, 3))])
def test_a_clip_shorter_than_a_frame_becomes_tokens(patch_size, shape):
    """Padded to a patch, and as far as the ends of a waveform are mirrored."""
    (sample,) = clips(1)
    tokenizer = fitted([sample], num_bins=16, patch_size=patch_size)
    assert tokenizer.spec.grid.shape == shape
    assert tokenizer.embedding(dim=4)(batch_of(tokenizer, [sample])).embeddings.isfinite().all()


def test_what_is_shown_is_what_was_heard():
    tokenizer = fitted(**SMALL)
    embedding, batch = tokenizer.embedding(dim=4), batch_of(tokenizer)
    raw = embedding(batch).raw
    shown = embedding.picture(raw)
    assert shown.shape == (3, 1, 16, tokenizer.spec.grid.shape[1] * 8)
    expected = (normalised(embedding, batch)[:, None] / 6 + 0.5).clamp(0, 1)
    torch.testing.assert_close(shown, expected)
    raw[0, 3] = float("nan")
    assert embedding.picture(raw).isnan().sum() == 64
    low = torch.sin(2 * math.pi * 100 * torch.arange(9600) / RATE)
    pitch = normalised(
        embedding, {"waveform": torch.stack([low, torch.sin(2 * math.pi * 7000 * torch.arange(9600) / RATE)])}
    )
    assert pitch[0, 0].mean() > pitch[1, 0].mean(), "the first row is the lowest"
    assert pitch[0, -1].mean() < pitch[1, -1].mean()


# ---------------------------------------------------------------------------------------------- fitting


@pytest.mark.parametrize("options", [{}, {"front_end": "mfcc"}, {"compression": "pcen"}, {"compression": "db"}])
def test_statistics_are_of_the_clips_own_frames(options):
    """Whatever they are padded to, and however many are looked at together."""
    samples = clips(*range(3000, 8000, 120))
    tokenizer = fitted(samples, **SMALL, **options)
    front_end, cells = tokenizer.embedding(dim=4).front_end, []
    for sample in samples:
        waveform = F.pad(sample["audio"].waveform, (0, 1000))
        cells.append(front_end(waveform)[0, :, : sample["audio"].waveform.shape[1] // 160 + 1].double())
    frames = torch.cat(cells, 1)
    torch.testing.assert_close(torch.tensor(tokenizer.mean).double(), frames.mean(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(tokenizer.std).double(), frames.std(1, correction=0), atol=1e-4, rtol=1e-4)
    longer = fitted(samples, **SMALL, **options, duration=2.0)
    assert (longer.mean, longer.std) == (tokenizer.mean, tokenizer.std)


def test_silence_stays_finite():
    silence = [{"audio": Audio(torch.zeros(1, 4000), RATE)}]
    tokenizer = fitted(silence, **SMALL)
    assert tokenizer.embedding(dim=4)(batch_of(tokenizer, silence)).embeddings.isfinite().all()


def test_the_longest_clip_is_the_duration_unless_it_is_set():
    assert fitted().duration == 0.6
    tokenizer = Spectrogram(**SMALL)
    tokenizer.assume(DataSpec(frozenset({"audio"}), rate=RATE, duration=1.0))
    tokenizer.fit(clips())
    assert tokenizer.duration == 1.0, "training clips may all be shorter than others"


# ---------------------------------------------------------------------------------------------- waveforms


def test_clips_become_one_rate_and_one_channel():
    mixed = [*clips(8000), *clips(22_050, rate=44_100, channels=8), *clips(1000, rate=8000, channels=2)]
    tokenizer = fitted(mixed, **SMALL, rate=RATE)
    assert tokenizer.duration == 0.5
    for sample in mixed:
        (waveform, rate), encoded = sample["audio"], tokenizer.encode(sample)["waveform"]
        expected = waveform.mean(0) if rate == RATE else transforms.Resample(rate, RATE)(waveform.mean(0))
        assert torch.equal(encoded[: len(expected)], expected)
        assert not encoded[len(expected) :].any()
    with pytest.raises(
        UserError, match=r"clip 0: has 44100 samples a second, others 16000.\n  Set tokenizer.rate=16000"
    ):
        fitted(mixed, **SMALL)


def test_a_file_is_read_at_the_rate_of_the_others(tmp_path):
    time = torch.arange(22_050) / 44_100
    soundfile.write(tmp_path / "a.wav", torch.sin(2 * math.pi * 440 * time).numpy(), 44_100, subtype="FLOAT")
    tokenizer = fitted(**SMALL)
    sample = tokenizer.read(str(tmp_path / "a.wav"))
    assert sample["audio"].rate == RATE
    expected = torch.sin(2 * math.pi * 440 * torch.arange(8000) / RATE)
    torch.testing.assert_close(tokenizer.encode(sample)["waveform"][100:7900], expected[100:7900], atol=1e-2, rtol=0)


def test_long_clips_are_cropped():
    (sample,) = clips(1500)
    tokenizer = fitted([sample], **SMALL, duration=0.02)
    whole = sample["audio"].waveform[0]
    assert torch.equal(tokenizer.encode(sample)["waveform"][:320], whole[590:910]), "the middle"
    starts = set()
    for seed in range(20):
        torch.manual_seed(seed)
        cropped = tokenizer.encode(sample, augment=True)["waveform"]
        start = int((whole.unfold(0, 320, 1) - cropped[:320]).abs().sum(1).argmin())
        assert torch.equal(cropped[:320], whole[start : start + 320])
        assert not cropped[320:].any()
        starts.add(start)
    assert len(starts) > 10
    assert min(starts) < 200
    assert max(starts) > 980


@pytest.mark.parametrize("augment", [False, True])
def test_long_clips_may_be_cropped_to_their_beginning(augment):
    (sample,) = clips(1500)
    tokenizer = fitted([sample], **SMALL, duration=0.02, crop="start")
    assert torch.equal(tokenizer.encode(sample, augment=augment)["waveform"][:320], sample["audio"].waveform[0, :320])


def test_clips_may_be_brought_to_one_level():
    loud, silence = clips(1500)[0], Audio(torch.zeros(1, 400), RATE)
    soft = {**loud, "audio": Audio(loud["audio"].waveform / 8, RATE)}
    tokenizer = fitted([loud, soft], **SMALL, level="peak")
    waveforms = [tokenizer.encode(sample)["waveform"] for sample in (loud, soft)]
    torch.testing.assert_close(*waveforms)
    assert [waveform.abs().max() for waveform in waveforms] == [1, 1]
    assert not tokenizer.encode({"audio": silence})["waveform"].any()
    assert fitted([loud], **SMALL).encode(loud)["waveform"].abs().max() < 1


def test_training_clips_are_shifted_and_become_louder_or_softer():
    (sample,) = clips(1000)
    whole = sample["audio"].waveform[0]
    tokenizer = fitted([sample], **SMALL, duration=0.1, time_shift=0.02, gain=6.0)
    places, gains = [], []
    for seed in range(40):
        torch.manual_seed(seed)
        waveform = tokenizer.encode(sample, augment=True)["waveform"]
        match = F.conv1d(F.pad(waveform, (320, 0))[None, None], whole[None, None])[0, 0]
        places.append(int(match.abs().argmax()) - 320)
        part = slice(max(0, places[-1]), places[-1] + 1000)
        heard = whole[max(0, -places[-1]) :]
        gains.append(float((waveform[part] / heard).median()))
        torch.testing.assert_close(waveform[part], heard * gains[-1], atol=1e-5, rtol=1e-3)
        assert not waveform[: part.start].any()
        assert not waveform[part.stop :].any()
    assert (min(places) >= -320, min(places) < -160, max(places) > 160, max(places) <= 320) == (True,) * 4
    assert (min(gains) >= 0.5, min(gains) < 0.7, max(gains) > 1.4, max(gains) <= 2.0) == (True,) * 4
    assert torch.equal(tokenizer.encode(sample)["waveform"][:1000], whole), "only in training"


def test_bands_are_hidden_in_training_alone():
    tokenizer = fitted(
        num_bins=16, patch_size=(None, 1), freq_masks=2, freq_mask_size=5, time_masks=2, time_mask_size=20
    )
    embedding = tokenizer.embedding(dim=4)
    samples = clips(4000, 9600)
    plain = batch_of(tokenizer, samples)
    bins, frames = set(), set()
    for seed in range(30):
        torch.manual_seed(seed)
        batch = batch_of(tokenizer, samples, augment=True)
        assert {key: value.shape for key, value in batch.items()} == {key: value.shape for key, value in plain.items()}
        clear = normalised(embedding, batch)
        hidden = embedding(batch).raw.transpose(1, 2)
        for sample in range(2):
            expected = clear[sample].clone()
            for first, behind in batch["freq_bands"][sample].tolist():
                assert 0 <= behind - first <= 5 and first >= 0 and behind <= 16
                expected[first:behind] = 0
                bins.add(behind - first)
            for first, behind in batch["time_bands"][sample].tolist():
                assert 0 <= behind - first <= 20 and first >= 0 and behind <= (26, 61)[sample], "where there is sound"
                expected[:, first:behind] = 0
                frames.add(behind - first)
            assert torch.equal(hidden[sample], expected)
    assert bins == set(range(6))
    assert {0, 20} <= frames
    assert torch.equal(embedding(plain).raw.transpose(1, 2), normalised(embedding, plain))


def test_mixed_clips_are_mixed_waveforms():
    tokenizer = fitted(**SMALL, mixup=0.8)
    assert tokenizer.spec.mixes
    torch.manual_seed(2)
    batch, embedding = batch_of(tokenizer), tokenizer.embedding(dim=8)
    mixed = tokenizer.mix(batch)
    own, partner = mixed["own"][:, None], mixed["partner"]
    assert (partner != torch.arange(3)).any()
    by_hand = own * batch["waveform"] + (1 - own) * batch["waveform"][partner]
    tokens, expected = embedding(mixed), embedding({**batch, "waveform": by_hand})
    torch.testing.assert_close(tokens.embeddings, expected.embeddings)
    assert torch.equal(tokens.valid, batch["valid"] | batch["valid"][partner])
    assert not fitted(**SMALL).spec.mixes


def test_rotary_positions_turn_along_both_axes():
    config = compose(["data=spoken_digits", "tokenizer=spectrogram", "position=rope", "backbone.dim=32"])
    data = DataSpec(frozenset({"audio", "label"}), labels=("a", "b"), rate=RATE, duration=0.6)
    tokenizer = fitted()
    model = build_model(config, tokenizer=tokenizer, data=data).eval()
    batch = {"inputs": batch_of(tokenizer), "targets": {}, "index": torch.arange(3)}
    before = model(batch).predictions
    assert before.isfinite().all()
    layout = model.trunk.embed(batch["inputs"]).layout
    assert layout.grids[0].axes == ("frequency", "time")
    for axis in range(2):
        assert len(layout.coordinates[..., axis].unique()) == tokenizer.spec.grid.shape[axis] > 1
        embedding = model.trunk.embedding
        kept = embedding.coordinates.clone()
        embedding.coordinates[..., axis] = kept[..., axis] * 3
        assert not torch.allclose(model(batch).predictions, before, atol=1e-6), "places along this axis matter"
        embedding.coordinates = kept


# ---------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.zeros(1, 0), "odd: holds no samples"),
        (torch.tensor([[0.0, float("nan")]]), "odd: holds samples that are NaN or infinite"),
        (torch.tensor([[0.0, float("inf")], [0.0, -float("inf")]]), "odd: holds samples that are NaN or infinite"),
    ],
)
def test_bad_samples_are_named(waveform, message):
    odd = {"id": "odd", "audio": Audio(waveform, RATE)}
    with pytest.raises(UserError, match=message):
        fitted().encode(odd)
    with pytest.raises(UserError, match=message):
        fitted([*clips(), odd])
    with pytest.raises(UserError, match="no training clips to fit on"):
        Spectrogram().fit([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "tokenizer.rate=0: must be more than 0"),
        ({"duration": -1.0}, "tokenizer.duration=-1.0: must be more than 0"),
        ({"hop": 0.0}, "tokenizer.hop=0.0: must be more than 0"),
        ({"gain": -1.0}, "tokenizer.gain=-1.0: must be at least 0"),
        ({"time_shift": float("nan")}, "tokenizer.time_shift=nan: must be at least 0"),
        ({"mixup": -0.1}, "tokenizer.mixup=-0.1"),
        ({"n_mels": 40}, r"n_mels=40: belongs to front_end=mfcc.\n  Set tokenizer.num_bins=40"),
        ({"front_end": "linear", "f_max": 4000.0}, "front_end=linear: has no mel bands; .* f_max"),
        ({"front_end": "mfcc", "compression": "pcen"}, r"compression=pcen: front_end=mfcc .*\n  Set .*=log or"),
        ({"stem": "conv"}, r"stem=conv: .*\n  Set tokenizer.patch_size=\[null,2\]"),
        ({"compute": "loader", "mixup": 0.2}, r"mixup=0.2: mixes waveforms.*\n  Set tokenizer.compute=device"),
        ({"patch_size": (8, 0)}, "patch_size: the width is 0, and must be at least 1"),
        ({"overlap": 16}, "overlap: the height that patches share is 16; it must be .* less than 16, that of a patch"),
        ({"patch_size": (None, 4), "overlap": (1, 0)}, "less than 1, as patches hold all bins"),
        (
            {"freq_masks": 2},
            "freq_masks=2 and tokenizer.freq_mask_size=0: both must be at least 1, or 0 to hide nothing",
        ),
        ({"time_mask_size": 2}, "time_masks=0 and tokenizer.time_mask_size=2: both must be"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Spectrogram(**options)


@pytest.mark.parametrize(
    ("options", "known", "message"),
    [
        ({}, {"rate": None}, r"don't share one rate.*\n  Set tokenizer.rate=16000"),
        ({}, {"duration": None}, r"how long the clips .*\n  Set tokenizer.duration=SECONDS"),
        ({}, {"duration": 3600.0}, r"The longest clip lasts 3600 s.*\n  Set tokenizer.duration=SECONDS"),
        ({"n_fft": 256}, {}, r"n_fft=256: a window of 25 ms is 400 samples at 16000 Hz"),
        ({"f_max": 9000.0}, {}, r"f_min=0 and tokenizer.f_max=9000: mel bands lie between 0 and 8000 Hz"),
        ({"num_bins": 128}, {}, r"num_bins=128: \d+ of the mel bands .*\n  Set a smaller .* such as 1024"),
        (
            {"front_end": "mfcc", "num_bins": 96},
            {},
            r"num_bins=96: front_end=mfcc has 80 at most, of tokenizer.n_mels=80",
        ),
        ({"front_end": "linear", "num_bins": 300}, {}, r"front_end=linear has 257 at most, of tokenizer.n_fft=512"),
        (
            {"overlap": 6},
            {},
            r"patches 16 bins high with overlap 6 don't cover 80 bins.*\n  Heights that would: 7, 8, 43, 80. "
            r"So would tokenizer.num_bins=76 or 86",
        ),
    ],
)
def test_what_does_not_go_with_the_data_is_refused_before_it_is_read(options, known, message):
    spec = DataSpec(**{"keys": frozenset({"audio"}), "rate": RATE, "duration": 1.0, **known})
    with pytest.raises(UserError, match=message):
        Spectrogram(**options).assume(spec)


def test_an_hour_is_cropped_when_asked_to():
    tokenizer = Spectrogram(**SMALL, duration=1.0)
    tokenizer.assume(DataSpec(frozenset({"audio"}), rate=RATE, duration=3600.0))
    assert tokenizer.spec.grid.shape == (2, 13)
