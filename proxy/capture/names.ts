import type dgram from 'node:dgram';
import type net from 'node:net';
import { answeredAddresses, endOfQuestion, udpBytes } from './dns-message.ts';
import type { LearnedAddresses } from './learned.ts';

export type NamesOptions = {
  /** Gives the answer to a raw DNS question, of any length. May reject: SERVFAIL. */
  askDns: (message: Buffer) => Promise<Buffer>;
  /** Whether an answer is the cluster's: then connects to its addresses lead there. */
  isClusters?: (answer: Buffer) => boolean;
};

const HEADER_BYTES = 12;
const QR = 0x80;
/** TC: ask again over TCP. */
const TRUNCATED = 0x02;
const SERVFAIL = 2;
/** Questions under way at once; more are dropped, as on any network, and asked again. */
const MAX_WAITING = 1_024;
const TCP_IDLE_MS = 30_000;

/** Answers the launched programs' DNS questions, however they come, and learns the cluster's addresses from the answers. */
export class Names {
  /** Questions answered. */
  answered = 0;
  #options: NamesOptions;
  #learned: LearnedAddresses;
  #waiting = 0;

  constructor(options: NamesOptions, learned: LearnedAddresses) {
    this.#options = options;
    this.#learned = learned;
  }

  /** Serves a bound socket: each answer goes to where its question came from. */
  serveUdp(socket: dgram.Socket): void {
    socket.on('error', () => {}); // of a client that has left
    socket.on('message', async (message, { address, port }) => {
      const answer = await this.#answer(message, 'udp');
      if (!answer) return;
      try {
        socket.send(answer, port, address);
      } catch {
        // closed meanwhile
      }
    });
  }

  /** RFC 7766: each message has its length before it; answers come in the order in which they are there. */
  serveTcp(socket: net.Socket): void {
    let kept: Buffer = Buffer.alloc(0);
    socket.setTimeout(TCP_IDLE_MS, () => socket.destroy());
    socket.on('end', () => socket.end());
    socket.on('data', async (piece: Buffer) => {
      kept = kept.length > 0 ? Buffer.concat([kept, piece]) : piece;
      while (kept.length >= 2 && kept.length >= 2 + kept.readUInt16BE(0)) {
        const message = kept.subarray(2, 2 + kept.readUInt16BE(0));
        kept = kept.subarray(2 + message.length);
        void this.#answerTcp(socket, message);
      }
    });
  }

  async #answerTcp(socket: net.Socket, message: Buffer): Promise<void> {
    const answer = await this.#answer(message, 'tcp');
    if (!answer || !socket.writable) return;
    const length = Buffer.alloc(2);
    length.writeUInt16BE(answer.length);
    socket.write(Buffer.concat([length, answer]));
  }

  /** Undefined: there is none to be given. */
  async #answer(message: Buffer, transport: 'udp' | 'tcp'): Promise<Buffer | undefined> {
    if (message.length < HEADER_BYTES || this.#waiting >= MAX_WAITING) return undefined;
    this.#waiting += 1;
    try {
      const { askDns, isClusters } = this.#options;
      const answer = await askDns(message);
      if (isClusters?.(answer)) {
        for (const { host, ttlS } of answeredAddresses(answer)) this.#learned.learn(host, ttlS);
      }
      this.answered += 1;
      return transport === 'udp' ? fitting(answer, message) : answer;
    } catch {
      return servFail(message);
    } finally {
      this.#waiting -= 1;
    }
  }
}

/** The question as its own answer; what follows it (EDNS) stays. */
function servFail(question: Buffer): Buffer {
  const answer = Buffer.from(question);
  answer[2] = (answer[2] as number) | QR;
  answer[3] = SERVFAIL;
  return answer;
}

/** An answer too long for the question's client without its records, so that it asks again over TCP (RFC 2181 9). */
function fitting(answer: Buffer, question: Buffer): Buffer {
  if (answer.length <= udpBytes(question)) return answer;
  const header = Buffer.from(answer.subarray(0, endOfQuestion(question)));
  header[2] = (header[2] as number) | TRUNCATED;
  header.fill(0, 6, HEADER_BYTES);
  return header;
}
