"""Uploads a file with tuspy and prints where it is:   upload.py ENDPOINT FILE KEY CHUNK_BYTES"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "python"))

from tusclient.client import TusClient  # noqa: E402

endpoint, file, key, chunk = sys.argv[1:]
uploader = TusClient(endpoint, headers={"Authorization": f"Bearer {key}"}).uploader(
    file,
    chunk_size=int(chunk),
    metadata={"filename": pathlib.Path(file).name, "kind": "audio"},
    retries=100,
    retry_delay=0.2,
    upload_checksum=True,
)
uploader.upload()
print(uploader.url)
