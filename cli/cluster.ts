import * as deploy from '../agent/deploy/kube.ts';
import type { Credentials, LoginOptions } from '../agent/deploy/kubeconfig.ts';
import type { Output } from './output.ts';

/** A Lease that is renewed says the same every 10 s: a day of it would be all of the log. */
const RENEWAL = /^PATCH .*\/leases\//;

/** The cluster, with each request in the log. As `openCluster` of agent/deploy/kube.ts. */
export function openCluster(options: LoginOptions, output: Output): Promise<deploy.Cluster> {
  return deploy.openCluster(options, {
    answered: ({ method, path, ms, status, failure }) => {
      const what = `${method} ${path}`;
      if (status === 200 && RENEWAL.test(what)) return;
      output.note('request', what, { ms, ...(status ? { status } : {}), ...(failure ? { code: failure } : {}) });
    },
    credentials: (credentials) => output.hide(secretsOf(credentials)),
  });
}

/** Certificates are none. */
function secretsOf({ headers, key }: Credentials): string[] {
  const { Authorization: said } = headers;
  const [scheme, value = ''] = (typeof said === 'string' ? said : '').split(' ');
  const pair = scheme === 'Basic' ? Buffer.from(value, 'base64').toString() : '';
  const password = pair.slice(pair.indexOf(':') + 1);
  return [value, pair, password, ...(key ? [key.toString()] : [])];
}
