/** What capture's threads tell one another. */

/** To the launcher. */
export type LauncherOrder =
  | { spawn: { key: number; command: string; args: string[]; env: NodeJS.ProcessEnv; cwd: string | undefined } }
  | { kill: { key: number; signal: NodeJS.Signals } };

/** From the launcher. */
export type LauncherNews =
  | { ready: { listener: number } }
  | { failed: string }
  | { spawned: { key: number; pid: number } }
  | { error: { key: number; message: string; code: string | undefined } }
  | { exited: { key: number; code: number | null; signal: NodeJS.Signals | null } };

/** To the supervisor, which then hears nothing more. */
export type SupervisorData = {
  listener: number;
  /** An eventfd(2); what is written to it ends the supervisor. */
  stop: number;
  /** Of capture's own loopback sockets: a caught socket is connected to one of them. */
  ports: number[];
};

/** From the supervisor: a call that waits for the main thread's answer. */
export type Caught = {
  call: 'connect' | 'send' | 'getpeername';
  id: bigint;
  /** Of the calling thread. */
  pid: number;
  /** The caller's number of its socket. */
  fd: number;
  /** `struct sockaddr` that the caller names; empty for getpeername. */
  address: Uint8Array;
  /** For getpeername: where the caller wants the address, and its length. */
  addressAt: bigint;
  lengthAt: bigint;
};
