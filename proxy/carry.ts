import type net from 'node:net';
import type { LpkError } from '../agent/wire/errors.ts';
import { flowError, pump } from '../agent/wire/pump.ts';
import { resetSocket } from '../agent/wire/reset-socket.ts';
import type { Dial, Flow, Outbound } from './flow.ts';
import { dismiss } from './handshake.ts';

/** What a protocol says to its client once the flow is on its way, or isn't. */
export type Replies = { success: Buffer; failure: (error: LpkError) => Buffer };

/** A client's request, as SOCKS and HTTP CONNECT both end in one. `awaitDial`: it wants the true result, however late. */
export type Request = { flow: Flow; replies: Replies; awaitDial?: boolean };

/** Silence, both ways, after which a carried flow is ended; 0: never. */
export type Idle = { flowIdleMs: number };

/**
 * Dials a flow, answers the client and joins the two. Bytes the client sent with its request go with the dial; those it
 * sends while waiting for the answer stay in the socket's buffer, which bounds them.
 */
export async function carry(
  socket: net.Socket,
  dial: Dial,
  { flow, replies, awaitDial }: Request,
  { flowIdleMs }: Idle,
): Promise<void> {
  const first: Buffer | null = socket.read();
  let outbound: Outbound;
  try {
    outbound = dial(flow, first ?? undefined);
  } catch (error) {
    dismiss(socket, replies.failure(flowError(error)));
    return;
  }
  const { stream, opened, replyEarly } = outbound;
  if (replyEarly && !awaitDial) {
    socket.write(replies.success);
    join(socket, stream, { flowIdleMs });
    opened.catch(() => resetSocket(socket));
    return;
  }
  const abandon = () => stream.reset('cancelled', 'the client left');
  const ignore = () => {};
  stream.on('error', ignore); // `opened` tells
  socket.once('close', abandon);
  try {
    await opened;
  } catch (error) {
    socket.off('close', abandon);
    if (!socket.destroyed) dismiss(socket, replies.failure(flowError(error)));
    return;
  }
  socket.off('close', abandon);
  stream.off('error', ignore);
  if (socket.destroyed) return;
  socket.write(replies.success);
  join(socket, stream, { flowIdleMs });
}

/** Pumps a client that may have ended (half-closed) already, while it waited for its answer. */
export function join(socket: net.Socket, stream: Outbound['stream'], { flowIdleMs }: Idle): void {
  // A reset and no end: who was cut off must not take what came for all there is.
  if (flowIdleMs > 0)
    socket.setTimeout(flowIdleMs, () => stream.reset('timed-out', `idle for ${flowIdleMs / 1_000} s`));
  pump(socket, stream);
  if (socket.readableEnded) stream.end();
}
