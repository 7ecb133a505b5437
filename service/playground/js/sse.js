// Server-sent events from a fetch body, because EventSource supports only GET.

/** The events of a byte stream: `{name, data}`, data parsed from JSON. */
export async function* readEvents(body) {
  let text = "";
  for await (const chunk of chunks(body.pipeThrough(new TextDecoderStream()))) {
    text += chunk;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const event = parse(block);
      if (event) yield event;
    }
  }
}

// Safari does not support `for await` over a stream.
async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  const fields = block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1)]);
  const all = (name) => fields.filter(([field]) => field === name).map(([, value]) => value.trim());
  const data = all("data").join("\n");
  return data ? { name: all("event")[0], data: JSON.parse(data) } : null;
}
