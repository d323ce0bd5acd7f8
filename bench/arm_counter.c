/* A TCG plugin for qemu-user: instructions of an AArch64 guest by class, written out where the guest asks for it.
 *
 *   qemu-aarch64 -plugin libarm_counter.so,out=FILE …
 *
 * The guest's system call 5000, which is none, appends a line "integer loads vector-loads fma simd branches" to FILE.
 * One guest thread. Built by bench/arm_counter.sh. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <qemu-plugin.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

enum { INTEGER, LOAD, VECTOR_LOAD, FMA, SIMD, BRANCH, CLASSES };
static uint64_t counts[CLASSES];
static FILE *out;

static int class_of(uint32_t insn)
{
    uint32_t group = (insn >> 25) & 15;
    if ((group & 5) == 4) return (insn >> 26) & 1 ? VECTOR_LOAD : LOAD;
    if ((group & 14) == 10) return BRANCH;
    if ((group & 7) != 7) return INTEGER;
    int fma = (insn & 0xBFA0FC00) == 0x0E20CC00 || (insn & 0xBFE0FC00) == 0x0E400C00 || /* FMLA, fp32 and fp16 */
              (insn & 0xBF00F400) == 0x0F001000 || (insn & 0xFF000000) == 0x1F000000; /* by element; FMADD */
    return fma ? FMA : SIMD;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    uint64_t found[CLASSES] = {0};
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
        uint32_t insn;
        memcpy(&insn, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), 4);
        found[class_of(insn)]++;
    }
    for (int c = 0; c < CLASSES; c++)
        if (found[c])
            qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &counts[c], found[c]);
}

static void asked(qemu_plugin_id_t id, unsigned int cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                  uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    (void)id, (void)cpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number != 5000 || !out) return;
    for (int k = 0; k < CLASSES; k++) fprintf(out, "%" PRIu64 "%c", counts[k], k + 1 < CLASSES ? ' ' : '\n');
    fflush(out);
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4)) out = fopen(argv[i] + 4, "w");
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, asked);
    return 0;
}
