import net from 'node:net';

/** A client of bytes: what tests of a protocol's edges need and no library gives. */
export class RawClient {
  readonly socket: net.Socket;
  /** Fulfilled when the connection is over, with the error's code if there was one. */
  readonly closed: Promise<string | undefined>;
  #held: Buffer = Buffer.alloc(0);
  #ended = false;
  #wake: (() => void) | undefined;

  constructor(port: number, host = '127.0.0.1') {
    this.socket = net.connect({ host, port, allowHalfOpen: true, noDelay: true });
    let code: string | undefined;
    this.socket.on('error', (error: NodeJS.ErrnoException) => {
      code = error.code;
    });
    this.closed = new Promise((resolve) => {
      this.socket.on('close', () => {
        this.#end();
        resolve(code);
      });
    });
    this.socket.on('data', (chunk: Buffer) => {
      this.#held = Buffer.concat([this.#held, chunk]);
      this.#wake?.();
    });
    this.socket.on('end', () => this.#end());
  }

  /** Sends the bytes one by one, each in a segment of its own. */
  async drip(bytes: Buffer): Promise<void> {
    for (const byte of bytes) await new Promise((resolve) => this.socket.write(Buffer.of(byte), resolve));
  }

  async take(bytes: number): Promise<Buffer> {
    while (this.#held.length < bytes) await this.#more(`${bytes} bytes`);
    const taken = this.#held.subarray(0, bytes);
    this.#held = this.#held.subarray(bytes);
    return taken;
  }

  /** Up to and with `mark`. */
  async takeUntil(mark: string): Promise<string> {
    while (!this.#held.includes(mark)) await this.#more(JSON.stringify(mark));
    return (await this.take(this.#held.indexOf(mark) + mark.length)).toString('latin1');
  }

  /** Everything up to the far side's end. */
  async rest(): Promise<Buffer> {
    while (!this.#ended) await this.#more();
    return this.take(this.#held.length);
  }

  /** Hands the socket over: what was received and not taken goes back first. */
  detach(): net.Socket {
    this.socket.removeAllListeners('data');
    this.socket.pause();
    if (this.#held.length > 0) this.socket.unshift(this.#held);
    this.#held = Buffer.alloc(0);
    return this.socket;
  }

  #end() {
    this.#ended = true;
    this.#wake?.();
  }

  #more(wanted?: string): Promise<void> {
    if (this.#ended && wanted) {
      throw new Error(`expected ${wanted}, got the end after ${JSON.stringify(this.#held.toString('latin1'))}`);
    }
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}
