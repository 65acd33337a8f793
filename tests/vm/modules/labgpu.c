// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * A PCI driver that shows vGPUs to user space in the three ways of a vendor's driver:
 * mediated devices on a physical function, mediated devices on virtual functions, and virtual
 * functions with a type of their own (directory nvidia/). There is nothing to run on them.
 *
 * Its name is nvidia, since the kernel puts a driver's name before each mdev type. It takes QEMU's
 * edu device by itself and any other function by driver_override. What a card can hold is counted
 * per physical function: FRAMES frames, and one type at a time.
 */

#include <linux/list.h>
#include <linux/mdev.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/slab.h>

#define FRAMES 4

static bool mdev_on_vfs;
module_param(mdev_on_vfs, bool, 0644);
MODULE_PARM_DESC(mdev_on_vfs, "virtual functions bound from now on are parents of mdevs");

struct kind {
	unsigned int id;
	unsigned int frames;
	const char *id_text;
	const char *name;
};

static const struct kind kinds[] = {
	{ 471, 1, "471", "NVIDIA Lab  L1-1C" },
	{ 472, 2, "472", "NVIDIA Lab  L1-2C" },
	{ 473, 4, "473", "NVIDIA Lab  L1-4C" },
};

#define KINDS ARRAY_SIZE(kinds)

/* what the functions of one card share */
struct card {
	struct list_head link;
	struct pci_dev *pf;
	unsigned int functions;
	unsigned int used;
	const struct kind *kind;
};

struct function {
	struct pci_dev *pdev;
	struct card *card;
	const struct kind *current_kind;
	unsigned int mdevs;
	bool is_parent;
	struct mdev_parent parent;
	struct mdev_type types[KINDS];
	struct mdev_type *type_list[KINDS];
};

static LIST_HEAD(cards);
static DEFINE_MUTEX(lock);

static struct card *card_of(struct pci_dev *pdev)
{
	struct pci_dev *pf = pci_physfn(pdev);
	struct card *card;

	list_for_each_entry(card, &cards, link)
		if (card->pf == pf)
			return card;
	card = kzalloc(sizeof(*card), GFP_KERNEL);
	if (!card)
		return NULL;
	card->pf = pf;
	list_add(&card->link, &cards);
	return card;
}

static void leave_card(struct card *card)
{
	if (--card->functions)
		return;
	list_del(&card->link);
	kfree(card);
}

static unsigned int creatable(const struct card *card, const struct kind *kind)
{
	if (card->used && card->kind != kind)
		return 0;
	return (FRAMES - card->used) / kind->frames;
}

static void take(struct card *card, const struct kind *kind)
{
	card->kind = kind;
	card->used += kind->frames;
}

static void give_back(struct card *card, const struct kind *kind)
{
	card->used -= kind->frames;
}

/* mediated devices */

static struct function *function_of(struct mdev_type *type)
{
	return container_of(type->parent, struct function, parent);
}

static const struct kind *kind_of(struct mdev_type *type)
{
	return &kinds[type - function_of(type)->types];
}

static unsigned int left(struct mdev_type *type)
{
	struct function *function = function_of(type);
	unsigned int count = creatable(function->card, kind_of(type));

	if (!function->pdev->is_virtfn)
		return count;
	return !function->mdevs && count;
}

static unsigned int get_available(struct mdev_type *type)
{
	unsigned int count;

	mutex_lock(&lock);
	count = left(type);
	mutex_unlock(&lock);
	return count;
}

static int mdev_probe(struct mdev_device *mdev)
{
	struct function *function = function_of(mdev->type);
	int result = 0;

	mutex_lock(&lock);
	if (left(mdev->type)) {
		take(function->card, kind_of(mdev->type));
		function->mdevs++;
	} else {
		result = -ENOSPC;
	}
	mutex_unlock(&lock);
	return result;
}

static void mdev_remove(struct mdev_device *mdev)
{
	struct function *function = function_of(mdev->type);

	mutex_lock(&lock);
	give_back(function->card, kind_of(mdev->type));
	function->mdevs--;
	mutex_unlock(&lock);
}

static ssize_t show_description(struct mdev_type *type, char *buf)
{
	return sysfs_emit(buf, "num_heads=1, frl_config=60, framebuffer=%uM, max_instance=%u\n",
			  kind_of(type)->frames * 1024, FRAMES / kind_of(type)->frames);
}

static struct mdev_driver mdev_driver = {
	.device_api = "vfio-pci",
	.driver = {
		.name = "labvgpu",
		.owner = THIS_MODULE,
		.mod_name = KBUILD_MODNAME,
	},
	.probe = mdev_probe,
	.remove = mdev_remove,
	.get_available = get_available,
	.show_description = show_description,
};

static int become_parent(struct function *function)
{
	int i, result;

	for (i = 0; i < KINDS; i++) {
		function->types[i].sysfs_name = kinds[i].id_text;
		function->types[i].pretty_name = kinds[i].name;
		function->type_list[i] = &function->types[i];
	}
	result = mdev_register_parent(&function->parent, &function->pdev->dev, &mdev_driver,
				      function->type_list, KINDS);
	function->is_parent = !result;
	return result;
}

/* a type of its own */

static ssize_t creatable_vgpu_types_show(struct device *dev, struct device_attribute *attr,
					 char *buf)
{
	struct function *function = dev_get_drvdata(dev);
	ssize_t length = 0;
	int i;

	mutex_lock(&lock);
	for (i = 0; !function->current_kind && i < KINDS; i++) {
		if (!creatable(function->card, &kinds[i]))
			continue;
		if (!length)
			length += sysfs_emit_at(buf, length, "ID    : vGPU Name\n");
		length += sysfs_emit_at(buf, length, "%-5u : %s\n", kinds[i].id, kinds[i].name);
	}
	mutex_unlock(&lock);
	return length;
}
static DEVICE_ATTR_RO(creatable_vgpu_types);

static ssize_t current_vgpu_type_show(struct device *dev, struct device_attribute *attr,
				      char *buf)
{
	struct function *function = dev_get_drvdata(dev);
	unsigned int id;

	mutex_lock(&lock);
	id = function->current_kind ? function->current_kind->id : 0;
	mutex_unlock(&lock);
	return sysfs_emit(buf, "%u\n", id);
}

static ssize_t current_vgpu_type_store(struct device *dev, struct device_attribute *attr,
				       const char *buf, size_t count)
{
	struct function *function = dev_get_drvdata(dev);
	unsigned int id;
	ssize_t result;
	int i;

	result = kstrtouint(buf, 10, &id);
	if (result)
		return result;
	mutex_lock(&lock);
	result = -EIO;
	if (!id) {
		if (function->current_kind)
			give_back(function->card, function->current_kind);
		function->current_kind = NULL;
		result = count;
	}
	for (i = 0; !function->current_kind && i < KINDS; i++) {
		if (kinds[i].id != id || !creatable(function->card, &kinds[i]))
			continue;
		function->current_kind = &kinds[i];
		take(function->card, &kinds[i]);
		result = count;
	}
	mutex_unlock(&lock);
	return result;
}
static DEVICE_ATTR_RW(current_vgpu_type);

static struct attribute *vgpu_attributes[] = {
	&dev_attr_creatable_vgpu_types.attr,
	&dev_attr_current_vgpu_type.attr,
	NULL,
};

static const struct attribute_group vgpu_group = {
	.name = "nvidia",
	.attrs = vgpu_attributes,
};

/* the PCI function */

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct function *function = kzalloc(sizeof(*function), GFP_KERNEL);
	int result = 0;

	if (!function)
		return -ENOMEM;
	function->pdev = pdev;
	mutex_lock(&lock);
	function->card = card_of(pdev);
	if (function->card)
		function->card->functions++;
	mutex_unlock(&lock);
	if (!function->card) {
		kfree(function);
		return -ENOMEM;
	}
	pci_set_drvdata(pdev, function);
	if (pdev->is_virtfn ? mdev_on_vfs : !pci_sriov_get_totalvfs(pdev))
		result = become_parent(function);
	else if (pdev->is_virtfn)
		result = sysfs_create_group(&pdev->dev.kobj, &vgpu_group);
	if (!result)
		return 0;
	mutex_lock(&lock);
	leave_card(function->card);
	mutex_unlock(&lock);
	kfree(function);
	return result;
}

static void remove(struct pci_dev *pdev)
{
	struct function *function = pci_get_drvdata(pdev);

	if (function->is_parent)
		mdev_unregister_parent(&function->parent);
	else if (pdev->is_virtfn)
		sysfs_remove_group(&pdev->dev.kobj, &vgpu_group);
	else
		pci_disable_sriov(pdev);
	mutex_lock(&lock);
	if (function->current_kind)
		give_back(function->card, function->current_kind);
	leave_card(function->card);
	mutex_unlock(&lock);
	kfree(function);
}

static const struct pci_device_id ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{ }
};
MODULE_DEVICE_TABLE(pci, ids);

static struct pci_driver pci_driver = {
	.name = "nvidia",
	.id_table = ids,
	.probe = probe,
	.remove = remove,
	.sriov_configure = pci_sriov_configure_simple,
};

static int __init start(void)
{
	int result = mdev_register_driver(&mdev_driver);

	if (result)
		return result;
	result = pci_register_driver(&pci_driver);
	if (result)
		mdev_unregister_driver(&mdev_driver);
	return result;
}

static void __exit stop(void)
{
	pci_unregister_driver(&pci_driver);
	mdev_unregister_driver(&mdev_driver);
}

module_init(start);
module_exit(stop);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("vGPUs that show their sysfs files and do nothing");
