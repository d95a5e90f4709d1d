// Makes volumes for claims: a volume is a folder of the machine, bound to the node of the pod that first wants it. A claim
// that asks for more is told that it has it: a folder has no size.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"path/filepath"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// Name by which the StorageClass of manifests/storage.yaml calls for it.
const name = "zk-e2e/directory"

type folders struct{ root string }

func (f folders) Provision(_ context.Context, o controller.ProvisionOptions) (*core.PersistentVolume, controller.ProvisioningState, error) {
	folder := filepath.Join(f.root, o.PVName)
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	if err := os.Chmod(folder, 0o777); err != nil { // whatever the umask is
		return nil, controller.ProvisioningFinished, err
	}
	spec := core.PersistentVolumeSpec{
		AccessModes:                   o.PVC.Spec.AccessModes,
		Capacity:                      core.ResourceList{core.ResourceStorage: o.PVC.Spec.Resources.Requests[core.ResourceStorage]},
		PersistentVolumeReclaimPolicy: *o.StorageClass.ReclaimPolicy,
		VolumeMode:                    o.PVC.Spec.VolumeMode,
		NodeAffinity:                  onlyOn(o.SelectedNodeName),
		// Not a host path: the kubelet gives local volumes, and not those, to the pod's fsGroup.
		PersistentVolumeSource: core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: folder}},
	}
	return &core.PersistentVolume{ObjectMeta: meta.ObjectMeta{Name: o.PVName}, Spec: spec}, controller.ProvisioningFinished, nil
}

func onlyOn(node string) *core.VolumeNodeAffinity {
	here := core.NodeSelectorRequirement{Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{node}}
	term := core.NodeSelectorTerm{MatchExpressions: []core.NodeSelectorRequirement{here}}
	return &core.VolumeNodeAffinity{Required: &core.NodeSelector{NodeSelectorTerms: []core.NodeSelectorTerm{term}}}
}

func (f folders) Delete(_ context.Context, volume *core.PersistentVolume) error {
	return os.RemoveAll(filepath.Join(f.root, volume.Name))
}

// grow gives all claims what they ask for, over and over.
func grow(ctx context.Context, client kubernetes.Interface) {
	for range time.Tick(time.Second) {
		claims, err := client.CoreV1().PersistentVolumeClaims("").List(ctx, meta.ListOptions{ResourceVersion: "0"})
		if err != nil {
			log.Printf("claims cannot be listed: %v", err)
			continue
		}
		for _, claim := range claims.Items {
			want, has := claim.Spec.Resources.Requests[core.ResourceStorage], claim.Status.Capacity[core.ResourceStorage]
			if claim.Status.Phase == core.ClaimBound && want.Cmp(has) > 0 {
				if err := growOne(ctx, client, &claim, want); err != nil {
					log.Printf("claim %s of %s cannot grow: %v", claim.Name, claim.Namespace, err)
				}
			}
		}
	}
}

func growOne(ctx context.Context, client kubernetes.Interface, claim *core.PersistentVolumeClaim, size resource.Quantity) error {
	volume, err := client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, meta.GetOptions{})
	if err != nil {
		return err
	}
	volume.Spec.Capacity[core.ResourceStorage] = size
	if _, err := client.CoreV1().PersistentVolumes().Update(ctx, volume, meta.UpdateOptions{}); err != nil {
		return err
	}
	claim.Status.Capacity[core.ResourceStorage] = size
	_, err = client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, meta.UpdateOptions{})
	return err
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "file that says where the cluster is")
	root := flag.String("root", "", "folder of all volumes")
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	client := kubernetes.NewForConfigOrDie(config)
	go grow(ctx, client)
	controller.NewProvisionController(ctx, client, name, folders{*root}, controller.LeaderElection(false)).Run(ctx)
}
