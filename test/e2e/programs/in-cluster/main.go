// An in-cluster client as its programmer writes it: client-go's own configuration, and nothing about lpk.
//
// Lists the pods of its own namespace, a line each, then tries the Secrets, which it expects to be refused.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "in-cluster:", err)
		os.Exit(1)
	}
}

func run() error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	config.Timeout = 30 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	namespace, err := os.ReadFile(namespaceFile)
	if err != nil {
		return err
	}
	core := client.CoreV1()
	in := strings.TrimSpace(string(namespace))
	pods, err := core.Pods(in).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	fmt.Println("host", config.Host)
	for _, pod := range pods.Items {
		fmt.Println("pod", pod.Name)
	}
	_, err = core.Secrets(in).List(context.Background(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		return fmt.Errorf("the secrets were not refused: %v", err)
	}
	fmt.Println("refused", err)
	return nil
}
