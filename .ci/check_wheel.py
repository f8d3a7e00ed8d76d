"""The wheel has every file of bespoke_jax, its type marker and weights among them, and no other package."""

import pathlib
import sys
import zipfile

wheel = pathlib.Path(sys.argv[1])
held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
wanted = {str(path) for path in pathlib.Path("bespoke_jax").rglob("*") if path.is_file() and path.suffix != ".pyc"}
if held != wanted or "bespoke_jax/py.typed" not in held:
    sys.exit(f"{wheel.name}: missing {sorted(wanted - held)[:5]}, too much {sorted(held - wanted)[:5]}.")
print(f"== {wheel.name}: {len(held)} files, {wheel.stat().st_size / 2**20:.1f} MiB")
