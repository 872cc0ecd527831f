import { isIP } from 'node:net';

/**
 * The tokens of Bridge to Kubernetes' KubernetesLocalProcessConfig.yaml, which lpk.yaml has too
 * (https://learn.microsoft.com/en-us/visualstudio/bridge/configure-bridge-to-kubernetes):
 *
 * - `$(services:NAME[.NAMESPACE][:PORT,…])` is the Service's name. Bridge gave an address of the laptop that led there; here the
 *   name itself does, and certificates and virtual hosts fit it.
 * - `$(externalendpoints:HOST:PORT[,PORT])` is HOST, which is then reached from the pod.
 * - `$(volumeMounts:NAME)` is the folder of that volume of the pod; `*` in NAME is any text, and the first match counts.
 */
const TOKEN = /\$\(\s*([a-z]+)\s*:\s*([^()]*?)\s*\)/gi;

const NAME = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/i;
const PORTS = /^\d{1,5}(,\d{1,5})*$/;

/** What is wrong with a value's tokens; undefined: nothing. */
export function tokenFault(value: string): string | undefined {
  for (const [token, kind = '', content = ''] of value.matchAll(TOKEN)) {
    const [name = '', ports, ...more] = content.split(':');
    const isNamed = NAME.test(name) && more.length === 0;
    switch (kind.toLowerCase()) {
      case 'services':
        if (!isNamed || (ports !== undefined && !PORTS.test(ports)))
          return `${token} is not $(services:NAME.NAMESPACE)`;
        break;
      case 'externalendpoints':
        if (!isNamed || !PORTS.test(ports ?? '')) return `${token} is not $(externalendpoints:HOST:PORT)`;
        break;
      case 'volumemounts':
        if (!/^[\w.*-]+$/.test(content)) return `${token} is not $(volumeMounts:NAME)`;
        break;
      default:
        return `${token} is unknown; known: $(services:…), $(externalendpoints:…), $(volumeMounts:…)`;
    }
  }
  return undefined;
}

/** Services and endpoints by their names; `hosts`: the endpoints'. Volumes stay, as their places are known only when connected. */
export function fillNames(value: string): { value: string; hosts: string[] } {
  const hosts: string[] = [];
  const filled = value.replace(TOKEN, (token, kind: string, content: string) => {
    const name = content.split(':', 1)[0] as string;
    if (kind.toLowerCase() === 'volumemounts') return token;
    if (kind.toLowerCase() === 'externalendpoints') hosts.push(name);
    return name;
  });
  return { value: filled, hosts };
}

/** Volumes by their folders, as `place` tells them. */
export function fillVolumes(value: string, place: (name: string) => string): string {
  return value.replace(TOKEN, (token, kind: string, name: string) =>
    kind.toLowerCase() === 'volumemounts' ? place(name) : token,
  );
}

/** Whether a volume is named in it. */
export function hasVolumes(value: string): boolean {
  return [...value.matchAll(TOKEN)].some(([, kind]) => kind?.toLowerCase() === 'volumemounts');
}

/** Variables as `--env` has them, and what must be the cluster's for them: names and CIDRs. */
export function envWords(env: [string, string][]): { env: string[]; names: string[]; routes: string[] } {
  const filled = env.map(([name, text]) => ({ name, ...fillNames(text) }));
  const hosts = [...new Set(filled.flatMap((each) => each.hosts))];
  return {
    env: filled.map(({ name, value }) => `${name}=${value}`),
    names: hosts.filter((host) => isIP(host) === 0),
    routes: hosts.filter((host) => isIP(host) !== 0).map((address) => `${address}/32`),
  };
}
