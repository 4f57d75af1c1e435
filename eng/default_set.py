"""Writes the embedded default dataset: the first N pictures of each class of MNIST-style idx files, in file order.

python3 eng/default_set.py SOURCE DESTINATION [TRAIN_PER_CLASS TEST_PER_CLASS]

SOURCE holds train-images-idx3-ubyte.gz and its three companions; defaults 600 and 200. Same input, same bytes out.
"""
import gzip
import pathlib
import struct
import sys

source, destination = map(pathlib.Path, sys.argv[1:3])
per_class = [int(n) for n in sys.argv[3:5]] or [600, 200]
for part, limit in zip(("train", "t10k"), per_class):
    images = gzip.decompress((source / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((source / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    magic, count, rows, cols = struct.unpack(">4I", images[:16])
    assert magic == 0x803 and struct.unpack(">2I", labels[:8]) == (0x801, count), "not a pair of idx files"
    taken, chosen = {}, []
    for i, label in enumerate(labels[8:]):
        if taken.get(label, 0) < limit:
            taken[label] = taken.get(label, 0) + 1
            chosen.append(i)
    size = rows * cols
    pictures = b"".join(images[16 + i * size:16 + (i + 1) * size] for i in chosen)
    for kind, data in (("images-idx3", struct.pack(">4I", 0x803, len(chosen), rows, cols) + pictures),
                       ("labels-idx1", struct.pack(">2I", 0x801, len(chosen)) + bytes(labels[8 + i] for i in chosen))):
        path = destination / f"{part}-{kind}-ubyte.gz"
        path.write_bytes(gzip.compress(data, 9, mtime=0))
        print(path.name, len(chosen), "pictures", path.stat().st_size, "bytes")
