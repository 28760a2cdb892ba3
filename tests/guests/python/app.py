"""Columns of a CSV text: count, mean and median of those that are numbers throughout."""

import csv
import io
import json
import random
import statistics

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam

# The runtime seeds this module at its first call, from `wasi:random/random`, which a host may not give; nothing here draws from it.
random.seed = lambda *_: None


def summary(text: str) -> dict:
    rows = list(csv.DictReader(io.StringIO(text)))
    columns = {}
    for name in rows[0] if rows else ():
        try:
            values = [float(row[name]) for row in rows]
        except ValueError:
            continue
        columns[name] = {"count": len(values), "mean": statistics.fmean(values), "median": statistics.median(values)}
    return {"rows": len(rows), "columns": columns}


def read(request: IncomingRequest) -> str:
    pieces = []
    body = request.consume()
    with body.stream() as stream:
        while True:
            try:
                pieces.append(stream.blocking_read(65536))
            except Exception as end:
                # `closed` is how a stream ends.
                if "Closed" in repr(end):
                    break
                raise
    return b"".join(pieces).decode()


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        told = json.dumps(summary(read(request))).encode()
        response = OutgoingResponse(Fields.from_list([("content-type", b"application/json")]))
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as stream:
            for at in range(0, len(told), 4096):
                stream.blocking_write_and_flush(told[at : at + 4096])
        OutgoingBody.finish(body, None)
