"""Write tests/parity/data/training/event_file.tfevents with TensorBoard's own messages and record writer.

    python tools/dump_event_file.py [--out tests/parity/data/training]

Ran with tensorboard 2.21.0, protobuf 7.36.2 and Pillow 13.0.0. The times are fixed: 1700000000.25 and 0.5 s more for
every record. event_file.png holds the picture of the file.
"""

import argparse
import io
import os

from PIL import Image
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

Value = summary_pb2.Summary.Value


def picture():
    pixels = [(x * 37 % 256, y * 53 % 256, x * y * 11 % 256) for y in range(5) for x in range(7)]
    image = Image.new("RGB", (7, 5))
    image.putdata(pixels)
    out = io.BytesIO()
    image.save(out, "png")
    return out.getvalue()


def scalars(step, **values):
    summary = [Value(tag=tag.replace("__", "/"), simple_value=value) for tag, value in values.items()]
    return {"step": step, "summary": summary_pb2.Summary(value=summary)}


def events(png):
    image = summary_pb2.Summary.Image(height=5, width=7, colorspace=3, encoded_image_string=png)
    yield {"file_version": "brain.Event:2"}
    yield {"step": 301, "session_log": event_pb2.SessionLog(status=event_pb2.SessionLog.START)}
    yield scalars(0, train__loss=1.375)  # step 0 is left out of the bytes
    yield scalars(129, train__loss=0.0, train__lr=1e-4)  # 0 in a oneof is not
    yield scalars(2**33, train__grad_norm=float("inf"))
    yield {"step": 1000, "summary": summary_pb2.Summary(value=[Value(tag="samples/größe", image=image)])}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="tests/parity/data/training")
    out = parser.parse_args().out
    png = picture()
    with open(os.path.join(out, "event_file.png"), "wb") as file:
        file.write(png)
    with open(os.path.join(out, "event_file.tfevents"), "wb") as file:
        writer = RecordWriter(file)
        for index, event in enumerate(events(png)):
            message = event_pb2.Event(wall_time=1700000000.25 + 0.5 * index, **event)
            writer.write(message.SerializeToString(deterministic=True))
        writer.flush()


if __name__ == "__main__":
    main()
