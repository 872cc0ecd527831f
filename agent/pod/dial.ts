import dgram from 'node:dgram';
import net from 'node:net';
import { LpkError } from '../wire/errors.ts';
import { flowError, pump } from '../wire/pump.ts';
import type { Stream } from '../wire/stream.ts';

/** Linux would go on sending SYNs for two minutes; nobody at a keyboard waits that long. */
const CONNECT_MS = 15_000;
const UDP_IDLE_MS = 120_000;

/** Connects a `tcp` stream to where it wants to go, names by the pod's own resolver (getaddrinfo, hosts file, search list). */
export function dialTcp(stream: Stream): void {
  const { host, port } = stream;
  const socket = net.connect({
    host,
    port,
    allowHalfOpen: true,
    noDelay: true,
    autoSelectFamily: true,
    autoSelectFamilyAttemptTimeout: 1_000,
  });
  const timer = setTimeout(() => {
    socket.destroy();
    stream.reset('timed-out', `${host}:${port} did not answer within ${CONNECT_MS / 1_000} s`);
  }, CONNECT_MS);
  const failed = (error: Error) => {
    clearTimeout(timer);
    const { code, message } = flowError(error);
    stream.reset(code, message);
  };
  const abandoned = () => {
    clearTimeout(timer);
    socket.destroy();
  };
  socket.once('error', failed);
  stream.once('close', abandoned);
  socket.once('connect', () => {
    clearTimeout(timer);
    socket.off('error', failed);
    stream.off('close', abandoned);
    stream.accept();
    pump(socket, stream);
  });
}

/** Serves a `udp` stream with a connected socket, so that an ICMP refusal is heard. Ends after 120 s of silence. */
export function dialUdp(stream: Stream): void {
  const { host, port } = stream;
  const socket = dgram.createSocket({ type: net.isIPv6(host) ? 'udp6' : 'udp4' });
  let idle = setTimeout(() => stream.end(), UDP_IDLE_MS);
  const active = () => {
    clearTimeout(idle);
    idle = setTimeout(() => stream.end(), UDP_IDLE_MS);
  };
  socket.on('error', (error) => {
    const { code, message } = flowError(error);
    stream.reset(code, message);
  });
  socket.on('message', (datagram) => {
    active();
    if (!stream.writableNeedDrain) stream.write(datagram);
  });
  stream.on('close', () => {
    clearTimeout(idle);
    socket.close();
  });
  socket.connect(port, host, () => {
    stream.accept();
    stream.on('data', (datagram: Buffer) => {
      active();
      socket.send(datagram);
    });
    stream.on('end', () => stream.end());
  });
}

/** Refuses what the agent can't do, in words the laptop shows. */
export function refuse(stream: Stream, error: unknown): void {
  const { code, message } = error instanceof LpkError ? error : flowError(error);
  stream.reset(code, message);
}
