import time

from tests.helpers import quick_config

from plugformer.train.run import train


def test_a(tmp_path):
    t = time.time()
    s, m = train(quick_config(f"run_dir={tmp_path / 'r'}"))
    print(s, m, time.time() - t)
    t = time.time()
    s, m = train(quick_config(f"run_dir={tmp_path / 'r2'}"))
    print(time.time() - t)
    import subprocess

    print(
        subprocess.run(
            f"cd {tmp_path}/r; find . -type f; cat metrics.csv summary.json data.json config.yaml plugins.json; head -c 800 environment.json",
            shell=True,
            capture_output=True,
            text=True,
        ).stdout
    )
