import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { installPackages } from '../cluster/packages.ts';
import { eventually } from './shop.ts';

const run = promisify(execFile);

/** A real terminal with a program in it, by tmux: what is on its screen, and keys typed at it. */
export class Terminal {
  readonly #socket: string;

  private constructor(socket: string) {
    this.#socket = socket;
  }

  /** Runs the command line in `folder`; the screen stays when it ends. */
  static async open(folder: string, command: string[], env: Record<string, string>): Promise<Terminal> {
    await installPackages({ tmux: '/usr/bin/tmux' });
    const terminal = new Terminal(`lpk-${process.pid}-${Math.random().toString(36).slice(2)}`);
    const variables = Object.entries(env).flatMap(([name, value]) => ['-e', `${name}=${value}`]);
    // What it ended with is the screen's last line; then it stays until it is closed.
    const kept = ['sh', '-c', 'trap : INT; "$@"; echo "ENDED with $?"; exec cat', 'sh', ...command];
    await terminal.#tmux(
      '-f',
      '/dev/null',
      'new-session',
      '-d',
      '-x',
      '120',
      '-y',
      '50',
      '-c',
      folder,
      ...variables,
      ...kept,
    );
    return terminal;
  }

  /** Until the screen shows it; the whole screen. */
  async shows(pattern: RegExp): Promise<string> {
    let screen = '';
    const found = await eventually(`${pattern} on the screen`, async () => {
      screen = await this.#tmux('capture-pane', '-p');
      return pattern.test(screen) && screen;
    }).catch((error: Error) => {
      throw new Error(`${error.message}; it shows:\n${screen.trimEnd()}`);
    });
    return found;
  }

  /** Names of keys as tmux has them: Enter, Down, C-c. */
  async press(...keys: string[]): Promise<void> {
    await this.#tmux('send-keys', ...keys);
  }

  async type(text: string): Promise<void> {
    await this.#tmux('send-keys', '-l', text);
  }

  async close(): Promise<void> {
    await this.#tmux('kill-server').catch(() => {});
  }

  async #tmux(...args: string[]): Promise<string> {
    return (await run('tmux', ['-L', this.#socket, ...args], { env: { ...process.env, TERM: 'xterm-256color' } }))
      .stdout;
  }
}
