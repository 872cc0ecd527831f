import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { Writable } from 'node:stream';
import { type TestContext, test } from 'node:test';
import { type LinkEvents, tellLinks } from '../../../cli/link-events.ts';
import { type Format, Output, type Sink } from '../../../cli/output.ts';

function links(t: TestContext, format: Format, isTTY: boolean) {
  let text = '';
  const sink = () =>
    Object.assign(
      new Writable({
        write: (chunk, _, done) => {
          text += chunk;
          done();
        },
      }),
      { isTTY, columns: 120 },
    ) as Sink;
  const output = new Output({ format, stdout: sink(), stderr: sink(), env: { NO_COLOR: '1' } });
  t.after(() => output.close());
  const events = new EventEmitter<LinkEvents>();
  tellLinks(events, output);
  const screen = () =>
    text
      .split('\n')
      .map((line) => line.split('\r\x1b[2K').at(-1))
      .join('\n');
  return { events, screen };
}

const DOWN = { pod: 'web-1', reason: 'websocket closed (1006)', holdMs: 60_000 };

test('on a terminal a lost link counts down what is left, until it is back', (t) => {
  const { events, screen } = links(t, 'text', true);
  events.emit('linkDown', DOWN);
  const said = '! link to pod web-1 lost (websocket closed (1006)); its connections are kept for 60 s\n';
  assert.match(screen().replace(said, ''), /^⠋ reconnecting to pod web-1; its connections are kept for 60 s more /);
  events.emit('linkUp', { pod: 'web-1' });
  assert.equal(screen(), `${said}link to pod web-1 is back\n`);
});

test('a pod that is gone is waited for no longer; one whose time is over still is', (t) => {
  const { events, screen } = links(t, 'text', true);
  events.emit('linkDown', { ...DOWN, holdMs: 0 });
  assert.match(screen(), /⠋ reconnecting to pod web-1 \(0\.0 s\)$/);
  events.emit('cut', { pod: 'web-1', connections: 3, reason: 'the link did not come back within 60 s' });
  assert.match(screen(), /\n! 3 connections through pod web-1 cut: the link did not come back within 60 s\n⠋ reconn/);
  events.emit('detached', { pod: 'web-1' });
  assert.match(screen(), /within 60 s\n$/);
});

test('elsewhere it is plain lines, and events', (t) => {
  const plain = links(t, 'text', false);
  plain.events.emit('linkDown', DOWN);
  plain.events.emit('cut', { pod: 'web-1', connections: 1, reason: 'the pod is gone' });
  assert.match(
    plain.screen(),
    /^! link to pod web-1 lost .* for 60 s\n! 1 connection through pod web-1 cut: the pod is gone\n$/,
  );
  const json = links(t, 'json', false);
  json.events.emit('cut', { pod: 'web-1', connections: 1, reason: 'the pod is gone' });
  const [line] = json.screen().split('\n');
  assert.deepEqual(JSON.parse(line as string), {
    ...{ event: 'cut', text: '1 connection through pod web-1 cut: the pod is gone' },
    ...{ pod: 'web-1', connections: 1, reason: 'the pod is gone' },
  });
});
