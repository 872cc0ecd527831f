import { existsSync, readdirSync } from 'node:fs';
import { enter } from '../cluster/node.ts';
import { network } from '../cluster/place.ts';
import { run } from '../cluster/run.ts';
import { cluster } from '../cluster/up.ts';

const NAMESPACES = '/run/netns';
/** Before the number of the process whose laptop it is. */
const NAME = 'lpk-laptop-';

/**
 * A computer of its own (a network namespace) whose only way out is to the API server: what it reaches of the cluster, it
 * reaches through lpk. There is no default route, so nothing it tries leaves this machine.
 */
export class Laptop {
  readonly #name: string;
  /** Its end of the link. */
  readonly #link: string;

  private constructor(pid: number) {
    this.#name = `${NAME}${pid}`;
    this.#link = `lt${pid}`;
  }

  /** Needs root, as the cluster does. */
  static async make(): Promise<Laptop> {
    await Laptop.removeLeft();
    const { pid } = cluster();
    const laptop = new Laptop(process.pid);
    const [name, here, there] = [laptop.#name, laptop.#link, `nt${process.pid}`];
    await run('ip', ['netns', 'add', name]);
    try {
      await run('ip', [
        'link',
        'add',
        here,
        'netns',
        name,
        'type',
        'veth',
        'peer',
        'name',
        there,
        'netns',
        String(pid),
      ]);
      const lines = [`addr add 198.19.2.2/30 dev ${here}`, `link set ${here} up`, 'link set lo up'];
      lines.push(`route add ${network.node}/32 via 198.19.2.1`);
      await run('ip', ['-n', name, '-batch', '-'], { input: `${lines.join('\n')}\n` });
      const within = [`addr add 198.19.2.1/30 dev ${there}`, `link set ${there} up`];
      await run('nsenter', [...enter(pid), 'ip', '-batch', '-'], { input: `${within.join('\n')}\n` });
    } catch (error) {
      await laptop.remove();
      throw error;
    }
    return laptop;
  }

  /** Its file, for a container that shares it. */
  get networkNamespace(): string {
    return `${NAMESPACES}/${this.#name}`;
  }

  /** The command line that runs `command` on this laptop. */
  on(command: string[]): string[] {
    return ['ip', 'netns', 'exec', this.#name, ...command];
  }

  /** Its only way out is gone, as without Wi-Fi. */
  async cut(): Promise<void> {
    await run('ip', ['-n', this.#name, 'link', 'set', this.#link, 'down']);
  }

  async mend(): Promise<void> {
    const lines = [`link set ${this.#link} up`, `route add ${network.node}/32 via 198.19.2.1`];
    await run('ip', ['-n', this.#name, '-batch', '-'], { input: `${lines.join('\n')}\n` });
  }

  /** With its link, on the node's side too: of itself that would go a moment later, or not while a process is left here. */
  async remove(): Promise<void> {
    await run('ip', ['-n', this.#name, 'link', 'del', this.#link]).catch(() => {}); // it may not have come to that
    await run('ip', ['netns', 'del', this.#name]);
  }

  /** Those of tests that were killed: their node's end has the address that the next laptop's gets. */
  private static async removeLeft(): Promise<void> {
    const names = existsSync(NAMESPACES) ? readdirSync(NAMESPACES) : [];
    for (const name of names) {
      const pid = Number(name.startsWith(NAME) && name.slice(NAME.length));
      // Nobody of this process's number has made one yet.
      if (pid > 0 && (pid === process.pid || !existsSync(`/proc/${pid}`))) await new Laptop(pid).remove();
    }
  }
}
