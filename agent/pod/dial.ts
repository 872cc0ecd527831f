import dgram from 'node:dgram';
import { lookup } from 'node:dns';
import net from 'node:net';
import { flowError, pump } from '../wire/pump.ts';
import type { Stream } from '../wire/stream.ts';
import { Names } from './names.ts';

/** Linux would go on sending SYNs for two minutes; nobody at a keyboard waits that long. */
const CONNECT_MS = 15_000;
const UDP_IDLE_MS = 120_000;

const names = new Names();

/** Connects a `tcp` stream to where it wants to go, names by the pod's own resolver (getaddrinfo, hosts file, search list). */
export function dialTcp(stream: Stream, connectMs: number = CONNECT_MS): void {
  const { host, port } = stream;
  const socket = net.connect({
    host: names.onlyAddress(host) ?? host,
    port,
    allowHalfOpen: true,
    noDelay: true,
    lookup: names.lookup,
    autoSelectFamily: true,
    autoSelectFamilyAttemptTimeout: 1_000,
  });
  const timer = setTimeout(() => {
    socket.destroy();
    stream.reset('timed-out', `${host}:${port} did not answer within ${connectMs / 1_000} s`);
  }, connectMs);
  const failed = (error: Error) => {
    clearTimeout(timer);
    names.forget(host);
    refuse(stream, error);
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

/** Serves a `udp` stream with a connected socket, so that an ICMP refusal is heard. Ends after `idleMs` of silence. */
export function dialUdp(stream: Stream, idleMs: number = UDP_IDLE_MS): void {
  const { host, port } = stream;
  if (port === 0) return stream.reset('refused', 'UDP has no port 0');
  lookup(host, { order: 'ipv4first' }, (error, address, family) => {
    if (stream.destroyed) return;
    if (error) return refuse(stream, error);
    connectUdp(stream, family === 6 ? 'udp6' : 'udp4', address, idleMs);
  });
}

function connectUdp(stream: Stream, type: dgram.SocketType, address: string, idleMs: number): void {
  const socket = dgram.createSocket({ type });
  const idle = setTimeout(() => stream.end(), idleMs);
  socket.on('error', (error) => refuse(stream, error));
  socket.on('message', (datagram) => {
    idle.refresh();
    if (stream.writable && !stream.writableNeedDrain) stream.write(datagram);
  });
  stream.on('close', () => {
    clearTimeout(idle);
    socket.close();
  });
  socket.once('connect', () => {
    stream.accept();
    stream.on('data', (datagram: Buffer) => {
      idle.refresh();
      socket.send(datagram); // what the network can't carry is dropped: there is no callback
    });
  });
  socket.connect(stream.port, address);
}

/** Refuses what the agent can't do, in words the laptop shows. */
export function refuse(stream: Stream, error: unknown): void {
  const { code, message } = flowError(error);
  stream.reset(code, message);
}
