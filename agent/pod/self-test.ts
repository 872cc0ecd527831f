import http from 'node:http';
import type net from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { LpkError } from '../wire/errors.ts';
import { flowError } from '../wire/pump.ts';

/**
 * The self-test's two ends in the pod: a call to a Service, and the port that recognises it. It is HTTP, which gets through a
 * mesh's sidecar and the API server's proxy; the source address would not do, as a pod that calls itself through a Service is
 * translated on the way (hairpin).
 */

/** From a call's connection to its first bytes, at most; who waits for the server to speak first is held back this long. */
const HOLD_MS = 1_000;
/** Held at once for one port; more are handed on as they come. */
const MAX_HELD = 64;
const RETRY_MS = 250;
const ANSWER_MS = 3_000;
const MAX_ANSWER_BYTES = 256;

/** `token`: what the call shows; `answer`: what it gets. */
type Expectation = { token: string; answer: string };

/** The calls that are expected, by port. While there is none for a port, its connections are not looked at. */
export class ExpectedCalls {
  #expected = new Map<number, Expectation & { held: Set<() => void> }>();

  /** One for each port; a later one takes its place. */
  expect(port: number, { token, answer }: Expectation): void {
    this.forget(port);
    this.#expected.set(port, { token, answer, held: new Set() });
  }

  /** What is held back goes on. */
  forget(port: number): void {
    const expected = this.#expected.get(port);
    this.#expected.delete(port);
    for (const release of expected?.held ?? []) release();
  }

  /** Answers the expected call; everything else is handed on, untouched, as soon as it is known to be something else. */
  sort(port: number, socket: net.Socket, handOn: () => void): void {
    const expected = this.#expected.get(port);
    if (!expected || expected.held.size >= MAX_HELD) return handOn();
    const { token, answer, held } = expected;
    const drop = () => {
      clearTimeout(timer);
      held.delete(release);
      socket.off('readable', look);
      socket.off('close', drop);
    };
    const decide = (isCall: boolean) => {
      drop();
      if (!isCall) return handOn();
      const head = `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ${answer.length + 2}\r\n`;
      socket.end(`${head}Connection: close\r\n\r\n"${answer}"`);
      socket.resume();
    };
    const release = () => decide(false);
    const look = () => {
      const first: Buffer | null = socket.read();
      const isCall = first?.toString('latin1').startsWith(`GET ${callPath(token)} `) === true;
      if (first && !isCall) socket.unshift(first);
      decide(isCall);
    };
    const timer = setTimeout(release, HOLD_MS);
    held.add(release);
    socket.on('readable', look);
    socket.on('close', drop);
  }
}

function callPath(token: string): string {
  return `/.lpk/self-test/${token}`;
}

/**
 * Calls `host` until the call is answered, for at most `forMs`: a Service knows of a new pod a little later than the pod itself. The answer;
 * LpkError: why the last call failed (`refused`, `timed-out`, `name-not-found`, …; `protocol`: something else answered).
 */
export async function callUntilAnswered(given: {
  host: string;
  port: number;
  token: string;
  forMs: number;
}): Promise<string> {
  const until = performance.now() + given.forMs;
  for (;;) {
    try {
      return await call(given);
    } catch (error) {
      if (performance.now() + RETRY_MS >= until) throw flowError(error);
      await pause(RETRY_MS);
    }
  }
}

async function call({ host, port, token }: { host: string; port: number; token: string }): Promise<string> {
  return await new Promise((resolve, reject) => {
    const request = http.get({ host, port, path: callPath(token), agent: false, timeout: ANSWER_MS }, (response) => {
      let text = '';
      response.setEncoding('latin1').on('data', (chunk: string) => {
        text += chunk;
        if (text.length > MAX_ANSWER_BYTES) response.destroy();
      });
      response.on('close', () => {
        const answer = /^"([\w-]+)"$/.exec(text)?.[1];
        if (response.statusCode === 200 && answer) return resolve(answer);
        reject(new LpkError('protocol', `something else answered: HTTP ${response.statusCode}`));
      });
    });
    request.on('timeout', () => request.destroy(new LpkError('timed-out', `no answer within ${ANSWER_MS / 1_000} s`)));
    request.on('error', (error: NodeJS.ErrnoException) => {
      const notHttp = error.code?.startsWith('HPE_') === true;
      reject(notHttp ? new LpkError('protocol', 'something else answered, not in HTTP', { cause: error }) : error);
    });
  });
}
