import net from 'node:net';
import { LpkError } from '../agent/wire/errors.ts';
import { flowError, pump } from '../agent/wire/pump.ts';
import type { Session } from '../agent/wire/session.ts';
import type { Stream } from '../agent/wire/stream.ts';

/** Dev servers listen on either; a name would depend on the hosts file. */
const LOOPBACKS = ['127.0.0.1', '::1'];
const CONNECT_MS = 10_000;

/**
 * Takes what arrives at the pod to the laptop: `localPort` says where a pod's port goes, `refused` hears that nothing
 * listened there.
 */
export function deliverInbound(
  session: Session,
  localPort: (podPort: number) => number | undefined,
  refused: (localPort: number) => void,
): void {
  session.on('stream', (stream: Stream) => {
    if (stream.kind !== 'accept') return stream.reset('not-allowed', 'the laptop only accepts connections');
    const port = localPort(stream.port);
    if (port === undefined) return stream.reset('refused', `the pod's port ${stream.port} is not served`);
    connect(stream, port, 0, refused);
  });
}

function connect(stream: Stream, port: number, attempt: number, refused: (port: number) => void): void {
  const host = LOOPBACKS[attempt] as string;
  const socket = net.connect({ host, port, allowHalfOpen: true, noDelay: true });
  socket.setTimeout(CONNECT_MS, () => socket.destroy(new LpkError('timed-out', `${host}:${port} did not answer`)));
  const abandoned = () => socket.destroy();
  const failed = (error: Error) => {
    stream.off('close', abandoned);
    const { code, message } = flowError(error);
    if (code !== 'timed-out' && attempt + 1 < LOOPBACKS.length) return connect(stream, port, attempt + 1, refused);
    if (code === 'timed-out') return stream.reset(code, message);
    refused(port);
    stream.reset('refused', `nothing listens at 127.0.0.1:${port}`);
  };
  stream.once('close', abandoned);
  socket.once('error', failed);
  socket.once('connect', () => {
    socket.off('error', failed);
    stream.off('close', abandoned);
    socket.setTimeout(0);
    stream.accept();
    pump(socket, stream);
  });
}
