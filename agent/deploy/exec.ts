import { LpkError } from '../wire/errors.ts';
import { requestUpgrade } from '../wire/upgrade.ts';
import { FrameReader, OPCODE, websocketHeader } from '../wire/websocket.ts';
import type { Cluster, Json } from './kube.ts';
import { networkError, oneLine, parseBody, upgradeError } from './status.ts';

/**
 * A command in a container, over a websocket (kubelet/pkg/cri/streaming): the first byte of each message is its
 * channel; channel 3 ends with a `metav1.Status`.
 */
const SUBPROTOCOL = 'v4.channel.k8s.io';
const STDOUT = 1;
const STDERR = 2;
const STATUS = 3;
const MAX_MESSAGE_BYTES = 256 * 1024;
const MAX_ERROR_BYTES = 4_096;
/** On a node that is short of everything a command takes its time. */
const ANSWER_MS = 20_000;

/**
 * Runs a command in a pod's container and gives its stdout. LpkError: `forbidden`, `not-found`, … as the API server said;
 * `timed-out`; `limit-exceeded`; `internal` with what the command or the kubelet said when it failed.
 */
export async function execInPod(
  cluster: Cluster,
  where: { namespace: string; pod: string; container: string },
  command: string[],
  { timeoutMs = ANSWER_MS, maxBytes = 1024 * 1024 } = {},
): Promise<Buffer> {
  const query = new URLSearchParams({ container: where.container, stdout: 'true', stderr: 'true' });
  for (const word of command) query.append('command', word);
  const base = cluster.server.replace(/\/$/, '');
  const url = `${base}/api/v1/namespaces/${where.namespace}/pods/${where.pod}/exec?${query}`;
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const request = requestUpgrade(url, await cluster.tlsOptions(), {
    subprotocol: SUBPROTOCOL,
    refused: (status, body) => reject(upgradeError(status, body, cluster)),
  });
  const late = setTimeout(() => reject(new LpkError('timed-out', `${command[0]} took too long`)), timeoutMs);
  request.on('error', (error) => reject(networkError(error, cluster.server)));
  request.on('upgrade', (_response, socket, head) => {
    const stdout: Buffer[] = [];
    let bytes = 0;
    let stderr = '';
    const take = (channel: number, data: Buffer) => {
      if (channel === STDOUT) {
        bytes += data.length;
        if (bytes > maxBytes) reject(new LpkError('limit-exceeded', `${command[0]} said more than ${maxBytes} bytes`));
        else stdout.push(data);
      } else if (channel === STDERR) {
        stderr = (stderr + data).slice(0, MAX_ERROR_BYTES);
      } else if (channel === STATUS) {
        const status = parseBody(String(data)) as Json; // without a kind here
        if (status?.status === 'Success') resolve(Buffer.concat(stdout));
        else reject(new LpkError('internal', `${command[0]}: ${oneLine(stderr || status?.message || 'failed')}`));
      }
    };
    const reader = new FrameReader(false, {
      message: (first, rest) => take(first[0] as number, Buffer.concat([first.subarray(1), ...rest])),
      ping: (payload) =>
        void socket.write(Buffer.concat([websocketHeader(OPCODE.pong, payload.length, true), payload])),
      close: () => socket.end(),
      broken: (_code, reason) => reject(new LpkError('protocol', `the command's output is not understood: ${reason}`)),
    });
    reader.maxMessageBytes = MAX_MESSAGE_BYTES;
    socket.on('data', (chunk: Buffer) => reader.read(chunk));
    socket.on('error', (error) => reject(networkError(error, cluster.server)));
    socket.on('close', () => reject(new LpkError('link-lost', `the connection to ${command[0]} broke off`)));
    promise.catch(() => {}).finally(() => socket.destroy());
    if (head.length > 0) reader.read(head);
  });
  return promise.finally(() => {
    clearTimeout(late);
    request.destroy();
  });
}
